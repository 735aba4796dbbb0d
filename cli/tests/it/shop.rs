//! The demonstration as a visitor and an operator see it.

use redis::AsyncCommands as _;
use serde_json::{Value, json};

use crate::farm::{Farm, holdfast};

fn browser() -> reqwest::Client {
    reqwest::Client::builder().cookie_store(true).build().unwrap()
}

async fn json(client: &reqwest::Client, url: &str) -> Value {
    let answer = client.get(url).send().await.unwrap();
    let text = answer.text().await.unwrap();
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farm_serves_its_shop_keeps_baskets_everywhere_and_shows_new_prices_at_once() {
    let farm = Farm::start(&[]);
    let status = farm.wait_whole(0);
    assert_eq!(status["voters"].as_array().unwrap().len(), 3);
    assert_eq!(status["apps"][0]["name"], "shop");
    serves_from_every_node(&farm).await;
    keeps_a_basket_on_any_node(&farm).await;
    shows_a_new_price_everywhere(&farm).await;
    speaks_redis_on_every_node(&farm).await;
    tells_of_itself(&farm).await;
}

async fn serves_from_every_node(farm: &Farm) {
    for node in 0..3 {
        let mut served_by = std::collections::BTreeSet::new();
        for _ in 0..12 {
            let answer = json(&browser(), &farm.url(node, "/api/whoami")).await;
            served_by.insert(answer["node"].as_str().unwrap().to_owned());
        }
        assert_eq!(served_by.len(), 3, "node {node} sends requests to {served_by:?} only");
        let page = reqwest::get(farm.url(node, "/")).await.unwrap();
        assert_eq!(page.status(), 200);
    }
}

/// Logging in, adding, and looking: each at another node. The cookie is the visitor's alone.
async fn keeps_a_basket_on_any_node(farm: &Farm) {
    // One name, so that the cookie goes to every port: loopback's address is the host.
    let client = browser();
    let login = client.post(farm.url(0, "/login")).form(&[("name", "Marta")]).send().await.unwrap();
    assert!(login.status().is_success(), "{}", login.status());
    let catalogue = json(&client, &farm.url(1, "/api/catalogue")).await;
    let product = catalogue["products"][0]["id"].as_str().unwrap().to_owned();
    for node in 0..3 {
        let added = client
            .post(farm.url(node, "/basket/add"))
            .form(&[("id", product.as_str())])
            .send()
            .await
            .unwrap();
        assert!(added.status().is_success(), "{}", added.status());
    }
    for node in 0..3 {
        let basket = json(&client, &farm.url(node, "/api/basket")).await;
        assert_eq!(basket["name"], "Marta", "{basket}");
        assert_eq!(basket["items"][0]["quantity"], 3, "{basket}");
    }
}

async fn shows_a_new_price_everywhere(farm: &Farm) {
    let client = browser();
    let before = json(&client, &farm.url(0, "/api/catalogue")).await;
    let product = before["products"][0]["id"].as_str().unwrap().to_owned();
    // Every instance has the old price in its memory.
    for _ in 0..12 {
        json(&client, &farm.url(0, "/api/catalogue")).await;
    }
    let form = [("id", product.as_str()), ("price", "77.77")];
    let changed = client.post(farm.url(1, "/admin/price")).form(&form).send().await.unwrap();
    assert!(changed.status().is_success(), "{}", changed.text().await.unwrap());
    for node in 0..3 {
        for _ in 0..6 {
            let now = json(&client, &farm.url(node, "/api/catalogue")).await;
            assert_eq!(now["products"][0]["price_cents"], 7777, "{now}");
        }
    }
    let said =
        farm.at(2, &["cache", "invalidate", "price:x", "--keyspace", "shop", "--wait", "--json"]).json();
    assert_eq!(said["applied"].as_array().unwrap().len(), 3, "{said}");
    assert_eq!(said["missing"].as_array().unwrap().len(), 0, "{said}");
}

async fn speaks_redis_on_every_node(farm: &Farm) {
    for node in 0..3 {
        let mut redis = farm.redis(node).await;
        let _: () = redis.set(format!("key-{node}"), node).await.unwrap();
        for other in 0..3 {
            let found: usize = farm.redis(other).await.get(format!("key-{node}")).await.unwrap();
            assert_eq!(found, node);
        }
        let count: i64 = redis.incr("count", 1).await.unwrap();
        assert_eq!(count, i64::try_from(node).unwrap() + 1);
        let info: String = redis::cmd("INFO").query_async(&mut redis).await.unwrap();
        assert!(info.contains("# Holdfast"), "{info}");
    }
    // The operator's verbs see the same store.
    let set = farm.at(0, &["session", "set", "verb", "seen", "--json"]).json();
    assert_eq!((&set["key"], set["version"].is_u64()), (&json!("verb"), true), "{set}");
    assert_eq!(farm.at(1, &["session", "get", "verb"]).ok().stdout.trim_end(), "seen");
    let deleted = farm.at(2, &["session", "del", "verb", "--json"]).json();
    assert_eq!(deleted, json!({ "key": "verb", "found": true }));
    assert_eq!(farm.at(0, &["session", "get", "verb"]).code, 1);
}

async fn tells_of_itself(farm: &Farm) {
    let ps = farm.at(0, &["ps", "shop", "--json"]).json();
    assert_eq!(ps["instances"].as_array().unwrap().len(), 3, "{ps}");
    let apps = farm.at(1, &["apps", "--json"]).json();
    assert_eq!(apps["apps"][0]["ready"], 3, "{apps}");
    assert_eq!(apps["apps"][0]["rollout"], Value::Null);
    let controller = farm.at(2, &["controller", "--json"]).json();
    assert_eq!(controller["voters"].as_array().unwrap().len(), 3, "{controller}");
    let token = farm.at(1, &["token", "create", "--ttl", "1h", "--uses", "1", "--json"]).json();
    assert!(token["join"].as_str().unwrap().starts_with("holdfast join HFT1-"), "{token}");
    let tokens = farm.at(2, &["token", "ls", "--json"]).json();
    let ids: Vec<&str> =
        tokens["tokens"].as_array().unwrap().iter().filter_map(|t| t["id"].as_str()).collect();
    assert!(ids.contains(&token["id"].as_str().unwrap()), "{tokens}");
    for node in &farm.nodes {
        let get = |path: &str| reqwest::get(format!("http://{}{path}", node.admin));
        assert_eq!(get("/healthz").await.unwrap().status(), 200);
        assert_eq!(get("/readyz").await.unwrap().status(), 200);
        assert!(get("/").await.unwrap().text().await.unwrap().contains("Holdfast"));
        let metrics = get("/metrics").await.unwrap().text().await.unwrap();
        assert!(metrics.contains("holdfast_control_quorum 1") && metrics.ends_with("# EOF\n"), "{metrics}");
        let status: Value =
            serde_json::from_str(&get("/v1/status").await.unwrap().text().await.unwrap()).unwrap();
        assert_eq!(status["quorum"], true);
    }
    let human = farm.at(0, &["status"]).ok().stdout;
    assert!(farm.nodes.iter().all(|node| human.contains(&node.name)), "{human}");
}

#[test]
fn a_verb_without_an_agent_says_what_to_do() {
    let said = holdfast(&["status", "--socket", "/nonexistent/agent.sock"]);
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("agent") && said.stderr.lines().count() >= 2, "{said:?}");
}
