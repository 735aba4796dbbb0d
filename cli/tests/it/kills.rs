//! What users will do first: kill a server and look whether anybody notices.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::AsyncCommands as _;
use tokio_util::task::TaskTracker;

use crate::farm::{Farm, PATIENCE, write_app};

/// GETs on the nodes that live, all the time.
struct Load {
    stop: Arc<AtomicBool>,
    tasks: TaskTracker,
    done: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Load {
    fn start(urls: Vec<String>) -> Self {
        let load = Self {
            stop: Arc::default(),
            tasks: TaskTracker::new(),
            done: Arc::default(),
            failures: Arc::default(),
        };
        for n in 0..16 {
            let url = urls[n % urls.len()].clone();
            let (stop, done, failures) = (load.stop.clone(), load.done.clone(), load.failures.clone());
            load.tasks.spawn(async move {
                let client = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
                while !stop.load(Ordering::SeqCst) {
                    match client.get(&url).send().await {
                        Ok(answer) if answer.status() == 200 => {}
                        Ok(answer) => {
                            let status = answer.status();
                            let text = answer.text().await.unwrap_or_default();
                            failures.lock().unwrap().push(format!("{url}: {status} {text}"));
                        }
                        Err(error) => failures.lock().unwrap().push(format!("{url}: {error:?}")),
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        load
    }

    async fn more(&self, count: usize) {
        let from = self.done.load(Ordering::SeqCst);
        let enough = async {
            while self.done.load(Ordering::SeqCst) < from + count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, enough).await.expect("requests are answered");
    }

    async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.tasks.close();
        self.tasks.wait().await;
        Arc::into_inner(self.failures).unwrap().into_inner().unwrap()
    }
}

/// Writes numbered keys through one node, and notes which were acknowledged.
struct Ledger {
    stop: Arc<AtomicBool>,
    tasks: TaskTracker,
    acknowledged: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Ledger {
    fn start(address: String) -> Self {
        let ledger = Self { stop: Arc::default(), tasks: TaskTracker::new(), acknowledged: Arc::default() };
        for writer in 0..4u64 {
            let (stop, acknowledged, address) =
                (ledger.stop.clone(), ledger.acknowledged.clone(), address.clone());
            ledger.tasks.spawn(async move {
                let client = redis::Client::open(format!("redis://{address}")).unwrap();
                let mut redis = client.get_multiplexed_async_connection().await.unwrap();
                for n in 1u64.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    // Few keys, so that an older value in place of a newer one is seen too.
                    let key = format!("ledger-{writer}-{}", n % 10);
                    let written: redis::RedisResult<()> = redis.set(&key, n).await;
                    match written {
                        Ok(()) => drop(acknowledged.lock().unwrap().insert(key, n)),
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
            });
        }
        ledger
    }

    fn count(&self) -> u64 {
        self.acknowledged.lock().unwrap().values().sum()
    }

    /// Waits until writes are acknowledged again.
    async fn goes_on(&self, what: &str) {
        let from = self.count();
        let more = async {
            while self.count() <= from + 20 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, more).await.unwrap_or_else(|_| panic!("{what}: writes go on"));
    }

    async fn end(self) -> BTreeMap<String, u64> {
        self.stop.store(true, Ordering::SeqCst);
        self.tasks.close();
        self.tasks.wait().await;
        Arc::into_inner(self.acknowledged).unwrap().into_inner().unwrap()
    }
}

async fn check(farm: &Farm, node: usize, acknowledged: &BTreeMap<String, u64>) {
    let mut redis = farm.redis(node).await;
    for (key, newest) in acknowledged {
        let found: u64 = redis.get(key).await.unwrap_or_else(|error| panic!("{key}: {error}"));
        // A later value is one whose acknowledgement was lost.
        assert!(found >= *newest, "{key} is {found}, and {newest} was acknowledged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_of_any_one_agent_is_not_noticed_and_it_catches_up() {
    let mut farm = Farm::start(&[]);
    farm.wait_whole(0);
    for round in 0..3 {
        // The controller first, then the others.
        let victim = if round == 0 { farm.controller(0) } else { (farm.controller(0) + round) % 3 };
        let others: Vec<usize> = (0..3).filter(|node| *node != victim).collect();
        let load = Load::start(others.iter().map(|node| farm.url(*node, "/")).collect());
        let ledger = Ledger::start(farm.nodes[others[0]].resp.clone());
        load.more(100).await;
        ledger.goes_on("before the kill").await;
        farm.kill(victim);
        let name = farm.nodes[victim].name.clone();
        load.more(300).await;
        ledger.goes_on("after the kill").await;
        farm.wait_status(others[0], "the dead one is down and there is a controller", |status| {
            let down = status["members"]
                .as_array()
                .unwrap()
                .iter()
                .any(|m| m["name"] == name.as_str() && m["state"] == "down");
            down && status["controller"]["node"] != ""
                && status["controller"]["node"] != name.as_str()
                && status["quorum"] == true
        });
        load.more(100).await;
        farm.restart(victim);
        farm.wait_whole(victim);
        farm.wait_whole(others[0]);
        load.more(100).await;
        let failures = load.end().await;
        assert!(
            failures.is_empty(),
            "round {round}, {name} killed: {} failed: {:?}\n{}",
            failures.len(),
            &failures[..failures.len().min(3)],
            farm.logs()
        );
        let acknowledged = ledger.end().await;
        for node in 0..3 {
            check(&farm, node, &acknowledged).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_of_all_loses_no_acknowledged_write_and_no_release() {
    let mut farm = Farm::start(&[]);
    let before = farm.wait_whole(0);
    let ledger = Ledger::start(farm.nodes[0].resp.clone());
    ledger.goes_on("before the kill").await;
    for node in 0..3 {
        farm.kill(node);
    }
    let acknowledged = ledger.end().await;
    farm.restart(0);
    who_has_heard_nobody_confirms_nothing(&farm);
    for node in 1..3 {
        farm.restart(node);
    }
    for node in 0..3 {
        farm.wait_whole(node);
    }
    let after = farm.status(0);
    assert_eq!(after["apps"][0]["stable"], before["apps"][0]["stable"]);
    assert!(after["controller"]["epoch"].as_u64() > before["controller"]["epoch"].as_u64());
    for node in 0..3 {
        check(&farm, node, &acknowledged).await;
        assert_eq!(reqwest::get(farm.url(node, "/")).await.unwrap().status(), 200);
    }
}

/// The others may run and serve from their caches, for all that this one knows.
fn who_has_heard_nobody_confirms_nothing(farm: &Farm) {
    let words =
        ["cache", "invalidate", "price:x", "--keyspace", "shop", "--wait", "--timeout", "1s", "--json"];
    crate::farm::wait_until("the agent takes an invalidation", || {
        let said = farm.at(0, &words);
        let Ok(answer) = serde_json::from_str::<serde_json::Value>(&said.stdout) else { return false };
        assert_eq!(answer["missing"].as_array().map(Vec::len), Some(2), "{said:?}");
        assert_ne!(said.code, 0, "{said:?}");
        true
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn with_two_of_three_dead_writes_are_refused_with_the_reason_and_pages_go_on() {
    let mut farm = Farm::start(&[]);
    farm.wait_whole(0);
    farm.at(0, &["session", "set", "before", "kept"]).ok();
    farm.kill(1);
    farm.kill(2);
    farm.wait_status(0, "the others are down", |status| {
        status["quorum"] == false
            && status["members"].as_array().unwrap().iter().filter(|member| member["state"] == "down").count()
                == 2
    });
    let status = farm.status(0);
    assert_eq!(status["controller"]["node"], "");
    let warnings = status["warnings"].to_string();
    assert!(warnings.contains("no quorum") && warnings.contains("node-2 is down"), "{warnings}");
    let mut redis = farm.redis(0).await;
    let refused: redis::RedisResult<()> = redis.set("after", "refused").await;
    let words = refused.unwrap_err().to_string();
    assert!(
        words.contains("no quorum")
            || words.to_uppercase().contains("CLUSTERDOWN")
            || words.contains("outcome unknown"),
        "{words}"
    );
    let said = farm.at(0, &["session", "set", "after", "refused"]);
    assert_eq!(said.code, 5, "{said:?}");
    let said = farm.at(0, &["token", "create"]);
    assert_eq!(said.code, 5, "{said:?}");
    let app = farm.dir.path().join("other");
    write_app(&app, "other", "other");
    let said = farm.at(0, &["deploy", app.to_str().unwrap(), "--version", "1"]);
    assert_eq!(said.code, 5, "{said:?}");
    for _ in 0..5 {
        assert_eq!(reqwest::get(farm.url(0, "/")).await.unwrap().status(), 200);
    }
    farm.restart(1);
    farm.wait_status(0, "a majority is back", |status| {
        status["quorum"] == true && status["sessions"]["unavailable"] == 0
    });
    assert_eq!(farm.at(0, &["session", "get", "before"]).ok().stdout.trim_end(), "kept");
    farm.at(0, &["session", "set", "after", "taken"]).ok();
}

#[test]
fn an_agent_that_is_stopped_says_goodbye_and_is_not_down() {
    let mut farm = Farm::start(&[]);
    farm.wait_whole(0);
    let state = |status: &serde_json::Value| {
        let members = status["members"].as_array().unwrap();
        members.iter().find(|member| member["name"] == "node-3").unwrap()["state"].clone()
    };
    farm.stop(2);
    // Whoever is gone without a word is suspected first, and then down.
    let status = farm.wait_status(0, "it is no longer there", |status| state(status) != "alive");
    assert_eq!(state(&status), "left", "{status:#}");
    assert!(!status["warnings"].to_string().contains("node-3"), "{status:#}");
    farm.restart(2);
    farm.wait_whole(0);
}
