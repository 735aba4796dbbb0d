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
