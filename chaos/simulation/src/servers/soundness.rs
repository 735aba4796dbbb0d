//! Neither a crash nor anything that arrives makes a node's groups give up, or keeps them from opening.

use std::sync::Arc;

use super::Life;
use super::scene::Scene;

/// The groups of a life can not go on, or do not open. Of one that is over nothing else is expected: it may
/// have died while it waited for its disk.
pub fn gives_up(scene: &Scene, life: &Life, reason: &str) {
    if !life.opened.is_dead() {
        scene.is_wrong("soundness", format!("{}: {reason}", life.me));
    }
}

/// Tells of it when it happens.
pub async fn watch(scene: Arc<Scene>, life: Life) {
    let mut fault = life.groups.fault();
    let Ok(reason) = fault.wait_for(Option::is_some).await.map(|reason| reason.clone()) else { return };
    gives_up(&scene, &life, &reason.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::Servers;
    use crate::servers::faults::node;

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_is_told_of_and_who_is_dead_is_not() {
        let scene = Arc::new(Scene::new(1));
        let servers = Servers::new(&scene, 1);
        let life = servers.start(0, node(0));
        gives_up(&scene, &life, "the log is damaged");
        servers.crash(0);
        gives_up(&scene, &life, "the power is off");
        let (_, violations) = scene.take();
        let whats: Vec<&str> = violations.iter().map(|violation| violation.what.as_str()).collect();
        assert_eq!(whats, ["1: the log is damaged"]);
    }
}
