//! Who is logged in, and what is in the basket: all of it in the store, so that any server will do.
//!
//! ```text
//!   session:{ID}         {"name": ...}          20 minutes, rolling
//!   basket:{ID}:rope     2                      a counter for each product
//! ```
//! The basket is counters and not one document: two requests at once then each add theirs by INCR,
//! where reading a document and writing it back would lose one. The braces are Redis's hash tag:
//! all keys of a session live in one group and go in one pipeline.

use axum::http::HeaderMap;
use axum::http::header::COOKIE;
use data_encoding::HEXLOWER;
use rand::RngCore as _;
use redis::Pipeline;
use serde::{Deserialize, Serialize};

use super::catalogue::{PRODUCTS, Product};
use super::store::{READ_TIMEOUT, Store, StoreError, WRITE_TIMEOUT};

/// How long somebody may be away.
const TTL_SECONDS: i64 = 20 * 60;

/// A session is prolonged once a minute and not by every request: each one is a durable write.
const PROLONG_BELOW_SECONDS: i64 = TTL_SECONDS - 60;

const COOKIE_NAME: &str = "session";

/// Longest name that somebody may give.
pub const NAME_CHARS_MAX: usize = 40;

/// 128 bits that nobody guesses; whoever has them is logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionId(String);

impl SessionId {
    pub fn draw() -> Self {
        let mut bytes = [0; 16];
        rand::rng().fill_bytes(&mut bytes);
        Self(HEXLOWER.encode(&bytes))
    }

    /// The id in the request's cookies. Anything that is not one of ours counts as none.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let cookies = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
        let mut pairs =
            cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let text = pairs.find_map(|(name, value)| (name == COOKIE_NAME).then_some(value))?;
        let is_id = text.len() == 32 && HEXLOWER.decode(text.as_bytes()).is_ok();
        is_id.then(|| Self(text.to_owned()))
    }

    /// Not for scripts, and not sent along by other sites' forms.
    pub fn set_cookie(&self) -> String {
        format!("{COOKIE_NAME}={}; Path=/; HttpOnly; SameSite=Lax", self.0)
    }

    pub fn clear_cookie() -> String {
        format!("{COOKIE_NAME}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0")
    }

    fn key(&self) -> String {
        format!("session:{{{}}}", self.0)
    }

    fn basket_key(&self, product: &str) -> String {
        format!("basket:{{{}}}:{product}", self.0)
    }
}

/// What the store keeps of a customer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    name: String,
}

/// Somebody who is logged in, with the basket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Customer {
    pub id: SessionId,
    pub name: String,
    /// Products and how many of each, none of which is 0.
    pub basket: Vec<(&'static Product, u64)>,
}

impl Customer {
    pub fn pieces(&self) -> u64 {
        self.basket.iter().map(|(_, count)| count).sum()
    }
}

/// The customer of a session; `None` when it has expired or never was.
pub async fn load(store: &Store, id: SessionId) -> Result<Option<Customer>, StoreError> {
    let mut commands = Pipeline::new();
    commands.cmd("GET").arg(id.key());
    commands.cmd("TTL").arg(id.key());
    for product in &PRODUCTS {
        commands.cmd("GET").arg(id.basket_key(product.id));
    }
    let mut answers: Vec<redis::Value> = store.query(&commands, READ_TIMEOUT).await?;
    let counts = answers.split_off(2.min(answers.len()));
    let field = |index: usize| answers.get(index).cloned().unwrap_or(redis::Value::Nil);
    let text: Option<String> = redis::from_redis_value(field(0)).unwrap_or_default();
    let Some(record) = text.and_then(|text| serde_json::from_str::<Record>(&text).ok()) else {
        return Ok(None);
    };
    let customer = Customer { id, name: record.name, basket: basket(counts) };
    let ttl: i64 = redis::from_redis_value(field(1)).unwrap_or(TTL_SECONDS);
    if ttl < PROLONG_BELOW_SECONDS {
        prolong(store, &customer).await;
    }
    Ok(Some(customer))
}

fn basket(counts: Vec<redis::Value>) -> Vec<(&'static Product, u64)> {
    let counts = counts.into_iter().map(|value| redis::from_redis_value(value).unwrap_or(0));
    PRODUCTS.iter().zip(counts).filter(|(_, count)| *count > 0).collect()
}

/// A session that could not be prolonged lives on for as long as it would have; the next request
/// tries again.
async fn prolong(store: &Store, customer: &Customer) {
    let mut commands = Pipeline::new();
    commands.cmd("EXPIRE").arg(customer.id.key()).arg(TTL_SECONDS).ignore();
    for (product, _) in &customer.basket {
        commands.cmd("EXPIRE").arg(customer.id.basket_key(product.id)).arg(TTL_SECONDS).ignore();
    }
    if let Err(error) = store.query::<()>(&commands, READ_TIMEOUT).await {
        eprintln!("a session was not prolonged: {error}");
    }
}

/// A new session, under an id that nobody knew before: one that somebody planted is never used.
pub async fn log_in(store: &Store, name: &str) -> Result<SessionId, StoreError> {
    let id = SessionId::draw();
    let record = serde_json::json!(Record { name: name.to_owned() }).to_string();
    let mut commands = Pipeline::new();
    commands.cmd("SET").arg(id.key()).arg(record).arg("EX").arg(TTL_SECONDS).ignore();
    store.query::<()>(&commands, WRITE_TIMEOUT).await?;
    Ok(id)
}

pub async fn log_out(store: &Store, id: &SessionId) -> Result<(), StoreError> {
    let mut commands = Pipeline::new();
    commands.cmd("DEL").arg(id.key()).ignore();
    for product in &PRODUCTS {
        commands.cmd("DEL").arg(id.basket_key(product.id)).ignore();
    }
    store.query(&commands, WRITE_TIMEOUT).await
}

/// One more of `product`. The counter is made with its end, so that none is left behind for ever.
pub async fn add(store: &Store, id: &SessionId, product: &Product) -> Result<(), StoreError> {
    let key = id.basket_key(product.id);
    let mut commands = Pipeline::new();
    commands.cmd("SET").arg(&key).arg(0).arg("EX").arg(TTL_SECONDS).arg("NX").ignore();
    commands.cmd("INCR").arg(&key).ignore();
    commands.cmd("EXPIRE").arg(&key).arg(TTL_SECONDS).ignore();
    store.query(&commands, WRITE_TIMEOUT).await
}

/// None of `product` any more.
pub async fn remove(store: &Store, id: &SessionId, product: &Product) -> Result<(), StoreError> {
    let mut commands = Pipeline::new();
    commands.cmd("DEL").arg(id.basket_key(product.id)).ignore();
    store.query(&commands, WRITE_TIMEOUT).await
}

/// A name as given, if it is one.
pub fn checked_name(text: &str) -> Option<&str> {
    let name = text.trim();
    let fits =
        !name.is_empty() && name.chars().count() <= NAME_CHARS_MAX && !name.chars().any(char::is_control);
    fits.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(cookie: &str) -> HeaderMap {
        HeaderMap::from_iter([(COOKIE, cookie.parse().unwrap())])
    }

    #[test]
    fn a_session_is_found_among_other_cookies() {
        let id = SessionId::draw();
        let sent = id.set_cookie().split(';').next().unwrap().to_owned();
        assert_eq!(SessionId::from_headers(&headers(&format!("a=b; {sent}; c=d"))), Some(id));
    }

    #[test]
    fn an_id_that_is_not_ours_is_none() {
        for value in ["", "x", "ABCDEF00112233445566778899aabbcc", "{evil}"] {
            assert_eq!(SessionId::from_headers(&headers(&format!("session={value}"))), None, "{value}");
        }
        assert_eq!(SessionId::from_headers(&HeaderMap::new()), None);
    }

    #[test]
    fn all_keys_of_a_session_share_its_hash_tag() {
        let id = SessionId("ab".repeat(16));
        let tag = format!("{{{}}}", "ab".repeat(16));
        assert!(id.key().contains(&tag) && id.basket_key("rope").contains(&tag));
    }

    #[test]
    fn a_basket_holds_what_was_counted_and_nothing_else() {
        use redis::Value::{BulkString, Nil};
        let mut counts = vec![Nil; PRODUCTS.len()];
        counts[1] = BulkString(b"2".to_vec());
        counts[2] = BulkString(b"-1".to_vec());
        counts[3] = BulkString(b"what".to_vec());
        assert_eq!(basket(counts), [(&PRODUCTS[1], 2)]);
    }

    #[test]
    fn names_are_trimmed_and_bounded() {
        assert_eq!(checked_name("  Ada "), Some("Ada"));
        assert_eq!(checked_name(" \t"), None);
        assert_eq!(checked_name("a\u{7}b"), None);
        assert_eq!(checked_name(&"x".repeat(41)), None);
    }
}
