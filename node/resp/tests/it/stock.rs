//! What a stock client does.

use std::time::Duration;

use redis::{AsyncCommands as _, ExistenceCheck, SetExpiry, SetOptions, Value};

use super::farm::{Memory, Port};

fn code(error: &redis::RedisError) -> String {
    error.code().unwrap_or("none").to_owned()
}

#[tokio::test]
async fn both_protocols_shake_hands_and_store_values() {
    let port = Port::open().await;
    for query in ["", "?protocol=resp3"] {
        let mut client = port.client("", query).await;
        let () = client.set("greeting", "hello").await.unwrap();
        let value: Option<String> = client.get("greeting").await.unwrap();
        assert_eq!(value.as_deref(), Some("hello"));
        assert_eq!(client.del::<_, i64>("greeting").await.unwrap(), 1);
        let value: Option<String> = client.get("greeting").await.unwrap();
        assert_eq!(value, None);
    }
}

#[tokio::test]
async fn the_clients_library_is_known_after_the_handshake() {
    let port = Port::open().await;
    let mut client = port.client("", "?protocol=resp3").await;
    let info: String = redis::cmd("CLIENT").arg("INFO").query_async(&mut client).await.unwrap();
    assert!(info.contains("lib-name=redis-rs") && info.contains("resp=3"), "{info}");
}

#[tokio::test]
async fn values_are_any_bytes_up_to_the_bound() {
    let port = Port::open().await;
    let mut client = port.client("", "").await;
    let largest: Vec<u8> = (0..1usize << 20).map(|index| index as u8).collect();
    let () = client.set("large", &largest).await.unwrap();
    assert_eq!(client.get::<_, Vec<u8>>("large").await.unwrap(), largest);
    let error = client.set::<_, _, ()>("larger", vec![0; (1 << 20) + 1]).await.unwrap_err();
    assert!(error.to_string().contains("exceeds maximum allowed size"), "{error}");
    assert_eq!(client.strlen::<_, usize>("large").await.unwrap(), 1 << 20, "the connection goes on");
}

#[tokio::test]
async fn set_options_do_what_they_say() {
    let port = Port::open().await;
    let mut client = port.client("", "").await;
    let once = SetOptions::default().conditional_set(ExistenceCheck::NX).with_expiration(SetExpiry::EX(10));
    assert!(client.set_options::<_, _, bool>("lock", "me", once.clone()).await.unwrap());
    let refused: Option<String> = client.set_options("lock", "you", once).await.unwrap();
    assert_eq!(refused, None);
    let keep = SetOptions::default().get(true).with_expiration(SetExpiry::KEEPTTL);
    let before: Option<String> = client.set_options("lock", "you", keep).await.unwrap();
    assert_eq!(before.as_deref(), Some("me"));
    assert_eq!(client.ttl::<_, i64>("lock").await.unwrap(), 10);
}

#[tokio::test]
async fn keys_expire_and_can_be_kept() {
    let port = Port::open().await;
    let mut client = port.client("", "").await;
    let () = client.set_ex("a", "1", 10).await.unwrap();
    let () = client.pset_ex("b", "2", 10_000).await.unwrap();
    assert!(client.persist::<_, bool>("b").await.unwrap());
    port.store.pass(Duration::from_secs(4));
    assert_eq!(client.pttl::<_, i64>("a").await.unwrap(), 6_000);
    let value: String = client.get_ex("a", redis::Expiry::EX(7)).await.unwrap();
    assert_eq!(value, "1");
    port.store.pass(Duration::from_secs(7));
    assert_eq!(client.exists::<_, i64>(&["a", "b"][..]).await.unwrap(), 1);
    assert_eq!(client.ttl::<_, i64>("a").await.unwrap(), -2);
    assert_eq!(client.ttl::<_, i64>("b").await.unwrap(), -1);
    assert_eq!(client.expire::<_, i64>("b", -1).await.unwrap(), 1);
    assert_eq!(client.key_type::<_, String>("b").await.unwrap(), "none");
}

#[tokio::test]
async fn several_keys_at_once() {
    let port = Port::open().await;
    let mut client = port.client("", "").await;
    let () = client.mset(&[("a", "1"), ("b", "2")]).await.unwrap();
    let values: Vec<Option<String>> = client.mget(&["a", "none", "b"]).await.unwrap();
    assert_eq!(values, [Some("1".to_owned()), None, Some("2".to_owned())]);
    assert_eq!(client.unlink::<_, i64>(&["a", "b", "c"][..]).await.unwrap(), 2);
}

#[tokio::test]
async fn more_values_than_fit_one_answer_are_refused_and_many_that_fit_are_not() {
    let port = Port::open().await;
    let mut client = port.client("", "").await;
    let () = client.set("large", vec![b'x'; 1 << 20]).await.unwrap();
    let keys = ["large"; 65];
    let error = client.mget::<_, Vec<Vec<u8>>>(&keys).await.unwrap_err();
    assert!(error.to_string().contains("ask for fewer keys"), "{error}");
    let values: Vec<Option<Vec<u8>>> = client.mget(vec!["none"; 5_000]).await.unwrap();
    assert_eq!(values.len(), 5_000);
}

#[tokio::test]
async fn counters_count() {
    let port = Port::open().await;
    let mut client = port.client("", "").await;
    assert_eq!(client.incr::<_, _, i64>("n", 1).await.unwrap(), 1);
    assert_eq!(client.incr::<_, _, i64>("n", 41).await.unwrap(), 42);
    assert_eq!(client.decr::<_, _, i64>("n", 2).await.unwrap(), 40);
    assert_eq!(client.append::<_, _, usize>("n", "x").await.unwrap(), 3);
    let error = client.incr::<_, _, i64>("n", 1).await.unwrap_err();
    assert!(error.to_string().contains("not an integer"), "{error}");
    assert!(!client.set_nx::<_, _, bool>("n", "1").await.unwrap());
    assert_eq!(client.get_del::<_, String>("n").await.unwrap(), "40x");
}

#[tokio::test]
async fn a_pipeline_is_answered_in_order_by_one_batch() {
    let port = Port::open().await;
    let mut client = port.client("", "").await;
    let before = port.store.batches();
    let mut pipeline = redis::pipe();
    for number in 0..50 {
        pipeline.set("k", number).ignore().get("k").cmd("ECHO").arg(number);
    }
    let answers: Vec<i64> = pipeline.query_async(&mut client).await.unwrap();
    let expected: Vec<i64> = (0..50).flat_map(|number| [number, number]).collect();
    assert_eq!(answers, expected);
    let batches = port.store.batches() - before;
    assert!(batches < 50, "{batches} batches for 100 operations");
}

#[tokio::test]
async fn apps_and_databases_do_not_see_each_other() {
    let port = Port::open().await;
    let mut shop = port.client("shop:secret@", "").await;
    let mut blog = port.client("blog:words@", "").await;
    let mut third = port.client("shop:secret@", "3").await;
    let () = shop.set("k", "shop").await.unwrap();
    let () = third.set("k", "third").await.unwrap();
    let seen: Option<String> = blog.get("k").await.unwrap();
    assert_eq!(seen, None);
    assert_eq!(shop.get::<_, String>("k").await.unwrap(), "shop");
    let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut blog).await.unwrap();
    assert!(clients.contains("user=blog") && !clients.contains("user=shop"), "{clients}");
}

#[tokio::test]
async fn without_a_default_user_nothing_goes_before_auth() {
    let port = Port::with(Memory::closed(), node_resp::Limits::default()).await;
    let mut client = port.client("shop:secret@", "?protocol=resp3").await;
    let () = client.set("k", "v").await.unwrap();
    let wrong = redis::Client::open(format!("redis://shop:wrong@{}/", port.address)).unwrap();
    assert!(wrong.get_multiplexed_async_connection().await.is_err());
    let mut stranger = port.client("", "").await;
    let error = stranger.get::<_, Option<String>>("k").await.unwrap_err();
    assert_eq!(code(&error), "NOAUTH");
}

#[tokio::test]
async fn a_command_that_is_not_there_is_refused_at_once() {
    let port = Port::open().await;
    let mut client = port.client("", "").await;
    for command in ["MULTI", "HGETALL", "SCAN", "KEYS", "EVAL", "SUBSCRIBE", "CLUSTER", "DBSIZE"] {
        let error = redis::cmd(command).arg("x").query_async::<Value>(&mut client).await.unwrap_err();
        assert!(error.to_string().contains("unknown command"), "{command}: {error}");
    }
}

#[tokio::test]
async fn invalidate_tells_who_has_applied_it() {
    let port = Port::open().await;
    let mut client = port.client("shop:secret@", "?protocol=resp3").await;
    let mut invalidate = redis::cmd("INVALIDATE");
    invalidate.arg("KEY").arg("price:1").arg("price:2").arg("WAIT").arg(100);
    let answer: Value = invalidate.query_async(&mut client).await.unwrap();
    let text = format!("{answer:?}");
    assert!(text.contains("applied") && text.contains("node-1") && text.contains("node-3"), "{text}");
    let told = port.store.invalidated();
    assert_eq!(told, [("shop".to_owned(), vec!["price:1".into(), "price:2".into()])]);
    let refused = redis::cmd("INVALIDATE").arg("KEY").arg("refused").query_async::<Value>(&mut client).await;
    assert_eq!(code(&refused.unwrap_err()), "TRYAGAIN");
}

#[tokio::test]
async fn a_client_that_looks_around_finds_a_redis() {
    let port = Port::open().await;
    let mut client = port.client("", "").await;
    let info: String = redis::cmd("INFO").arg("server").query_async(&mut client).await.unwrap();
    assert!(info.contains("redis_version:7.4.0"));
    let count: usize = redis::cmd("COMMAND").arg("COUNT").query_async(&mut client).await.unwrap();
    let all: Vec<Value> = redis::cmd("COMMAND").query_async(&mut client).await.unwrap();
    assert_eq!(all.len(), count);
    let docs: Value = redis::cmd("COMMAND").arg("DOCS").query_async(&mut client).await.unwrap();
    assert!(matches!(docs, Value::Array(pairs) if pairs.len() == 2 * count));
    let policy: Vec<String> =
        redis::cmd("CONFIG").arg("GET").arg("maxmemory-p*").query_async(&mut client).await.unwrap();
    assert_eq!(policy, ["maxmemory-policy", "noeviction"]);
    let time: Vec<u64> = redis::cmd("TIME").query_async(&mut client).await.unwrap();
    assert!(time[0] > 1_700_000_000);
}
