//! Invariant 5 under load: a backend is killed while it is asked, no GET fails, and no POST is executed
//! twice.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio_util::task::TaskTracker;

use crate::backend::{Answer, Server, before, ok, until};

const CLIENTS: usize = 32;
const ROUNDS: usize = 60;

/// How often each POST was executed, by all servers together.
type Executions = Arc<Mutex<HashMap<String, usize>>>;

async fn recording(executions: &Executions) -> Server {
    let executions = Arc::clone(executions);
    Server::start(move |text| -> Answer {
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        if text.starts_with("POST ") {
            *executions.lock().unwrap().entry(body.to_owned()).or_default() += 1;
        }
        ok("done")
    })
    .await
}

#[tokio::test]
async fn a_killed_backend_fails_no_get_and_doubles_no_post() {
    let executions = Executions::default();
    let servers = [recording(&executions).await, recording(&executions).await, recording(&executions).await];
    let (_balancer, address) = before(&servers.iter().collect::<Vec<_>>()).await;
    let (failed_gets, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let posted: Arc<Mutex<Vec<String>>> = Arc::default();
    let tasks = TaskTracker::new();
    for client in 0..CLIENTS {
        let (failed_gets, done, posted) = (Arc::clone(&failed_gets), Arc::clone(&done), Arc::clone(&posted));
        tasks.spawn(async move {
            let http = reqwest::Client::new();
            for round in 0..ROUNDS {
                let answer = http.get(format!("http://{address}/")).send().await;
                if !answer.is_ok_and(|answer| answer.status() == 200) {
                    failed_gets.fetch_add(1, Ordering::SeqCst);
                }
                let id = format!("{client}-{round}");
                let answer = http.post(format!("http://{address}/")).body(id.clone()).send().await;
                if answer.is_ok_and(|answer| answer.status() == 200) {
                    posted.lock().unwrap().push(id);
                }
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    until("half of the load", || done.load(Ordering::SeqCst) > CLIENTS * ROUNDS / 2).await;
    servers[0].kill();
    tasks.close();
    tasks.wait().await;

    assert_eq!(failed_gets.load(Ordering::SeqCst), 0);
    let executions = executions.lock().unwrap();
    let doubled: Vec<_> = executions.iter().filter(|(_, times)| **times > 1).collect();
    assert!(doubled.is_empty(), "{doubled:?}");
    for id in posted.lock().unwrap().iter() {
        assert_eq!(executions.get(id), Some(&1), "an acknowledged POST was executed");
    }
}
