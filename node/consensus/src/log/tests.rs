use openraft::storage::RaftLogStorage as _;
use proto::ids::GroupId;

use super::*;
use crate::memory::MemoryEngine;

#[tokio::test]
async fn a_vote_is_there_after_a_restart() {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::default());
    let vote = Vote::new(7, 2);
    Log::open(GroupId(1), Arc::clone(&engine), Saved::new(None)).unwrap().save_vote(&vote).await.unwrap();
    // Who forgets a vote votes twice in one term.
    let mut reopened = Log::open(GroupId(1), engine, Saved::new(None)).unwrap();
    assert_eq!(reopened.read_vote().await.unwrap(), Some(vote));
}

#[tokio::test]
async fn a_leader_that_ended_before_its_first_entry_has_only_voted() {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::default());
    let mut vote = Vote::new(7, 2);
    vote.committed = true;
    Log::open(GroupId(1), Arc::clone(&engine), Saved::new(None)).unwrap().save_vote(&vote).await.unwrap();
    let reopened = Log::open(GroupId(1), engine, Saved::new(None)).unwrap();
    reopened.forget_leadership_without_entry(NodeId(3));
    assert_eq!(reopened.vote(), Some(vote), "another's leadership");
    reopened.forget_leadership_without_entry(NodeId(2));
    assert_eq!(reopened.vote(), Some(Vote::new(7, 2)));
}
