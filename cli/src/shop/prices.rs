//! Prices, cached in memory for as long as the farm vouches for them.
//!
//! The cache may serve a price only while it would hear of a change. Two things could break that:
//! a subscription that is down, so a price is fresh only while the subscription is up; and a read
//! that began before a change and ends after it, so a price that was read is kept only when nothing
//! was dropped meanwhile. What is not fresh stays as a last resort for when the store refuses.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redis::Pipeline;
use serde::Serialize;

use super::catalogue::{Cents, PRODUCTS, Product};
use super::store::{READ_TIMEOUT, Store};

/// A price, and how good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    pub price: Cents,
    pub source: Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// From memory, and vouched for.
    Cache,
    /// Just read.
    Store,
    /// The store refused: the last price that this instance knew.
    LastKnown,
}

/// The key of a product's price.
pub fn key(id: &str) -> String {
    format!("price:{id}")
}

#[derive(Debug, Default)]
pub struct Prices {
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    /// Whether a change would be heard of.
    subscribed: bool,
    /// Counts what was dropped; a read that saw another number may be old.
    drops: u64,
    known: BTreeMap<&'static str, Known>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    price: Cents,
    fresh: bool,
}

impl Prices {
    pub fn new() -> Self {
        Self::default()
    }

    /// The price of every product, in the order of the catalogue.
    pub async fn all(&self, store: &Store) -> Vec<Quote> {
        let (cached, drops) = {
            let cache = self.lock();
            (cache.fresh_quotes(), cache.drops)
        };
        let wanted: Vec<&Product> = PRODUCTS
            .iter()
            .zip(&cached)
            .filter(|(_, quote)| quote.is_none())
            .map(|(product, _)| product)
            .collect();
        let read = if wanted.is_empty() { Vec::new() } else { read(store, &wanted).await };
        self.lock().fill(drops, &read);
        let cache = self.lock();
        let quotes = PRODUCTS.iter().zip(cached);
        quotes.map(|(product, quote)| quote.unwrap_or_else(|| cache.read_or_known(product, &read))).collect()
    }

    /// From now on changes are heard of. What changed before may have been missed.
    pub fn subscribed(&self) {
        let mut cache = self.lock();
        cache.drop_all();
        cache.subscribed = true;
    }

    /// Changes are not heard of any more.
    pub fn cut_off(&self) {
        let mut cache = self.lock();
        cache.drop_all();
        cache.subscribed = false;
    }

    /// Everything may be old.
    pub fn flush(&self) {
        self.lock().drop_all();
    }

    /// These keys are old. Keys of something else do no harm.
    pub fn drop_keys<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) {
        let mut cache = self.lock();
        for key in keys {
            cache.drops += 1;
            let id = key.strip_prefix(b"price:").and_then(|id| std::str::from_utf8(id).ok());
            if let Some(known) = id.and_then(|id| cache.known.get_mut(id)) {
                known.fresh = false;
            }
        }
    }

    /// A panic elsewhere leaves nothing half done in here: every change is one assignment.
    fn lock(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cache {
    fn fresh_quotes(&self) -> Vec<Option<Quote>> {
        let fresh = |product: &Product| {
            let known = self.known.get(product.id).filter(|known| known.fresh && self.subscribed)?;
            Some(Quote { price: known.price, source: Source::Cache })
        };
        PRODUCTS.iter().map(fresh).collect()
    }

    /// Keeps what was read since `drops`; it is vouched for only when nothing was dropped since.
    fn fill(&mut self, drops: u64, read: &[(&'static str, Cents)]) {
        let fresh = self.subscribed && self.drops == drops;
        for (id, price) in read {
            self.known.insert(id, Known { price: *price, fresh });
        }
    }

    fn read_or_known(&self, product: &Product, read: &[(&'static str, Cents)]) -> Quote {
        if let Some((_, price)) = read.iter().find(|(id, _)| *id == product.id) {
            return Quote { price: *price, source: Source::Store };
        }
        let price = self.known.get(product.id).map_or(product.first_price, |known| known.price);
        Quote { price, source: Source::LastKnown }
    }

    fn drop_all(&mut self) {
        self.drops += 1;
        for known in self.known.values_mut() {
            known.fresh = false;
        }
    }
}

/// The prices in the store; none when it refuses.
async fn read(store: &Store, products: &[&'static Product]) -> Vec<(&'static str, Cents)> {
    let mut commands = Pipeline::new();
    for product in products {
        commands.cmd("GET").arg(key(product.id));
    }
    match store.query::<Vec<Option<String>>>(&commands, READ_TIMEOUT).await {
        Ok(texts) => products
            .iter()
            .zip(texts)
            .map(|(product, text)| {
                (product.id, text.as_deref().and_then(parse).unwrap_or(product.first_price))
            })
            .collect(),
        Err(error) => {
            eprintln!("prices are shown from memory: {error}");
            Vec::new()
        }
    }
}

/// Prices are stored in cents, as decimal text.
fn parse(text: &str) -> Option<Cents> {
    text.parse().ok().map(Cents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quote(prices: &Prices, id: &str) -> Option<Quote> {
        let position = PRODUCTS.iter().position(|product| product.id == id).unwrap();
        prices.lock().fresh_quotes()[position]
    }

    fn filled() -> Prices {
        let prices = Prices::new();
        prices.subscribed();
        let drops = prices.lock().drops;
        prices.lock().fill(drops, &[("rope", Cents(5)), ("bell", Cents(6))]);
        prices
    }

    #[test]
    fn a_price_is_cached_until_its_key_is_dropped() {
        let prices = filled();
        assert_eq!(quote(&prices, "rope"), Some(Quote { price: Cents(5), source: Source::Cache }));
        prices.drop_keys([b"price:rope".as_slice(), b"other", b"price:\xff"].into_iter());
        assert_eq!(quote(&prices, "rope"), None);
        assert!(quote(&prices, "bell").is_some());
    }

    #[test]
    fn nothing_is_vouched_for_while_the_subscription_is_down() {
        let prices = filled();
        prices.cut_off();
        assert_eq!(quote(&prices, "rope"), None);
        let drops = prices.lock().drops;
        prices.lock().fill(drops, &[("rope", Cents(5))]);
        assert_eq!(quote(&prices, "rope"), None);
        prices.subscribed();
        assert_eq!(quote(&prices, "rope"), None);
    }

    #[test]
    fn a_read_that_began_before_a_change_is_not_kept_as_fresh() {
        let prices = filled();
        prices.flush();
        let before = prices.lock().drops;
        prices.drop_keys([b"price:rope".as_slice()].into_iter());
        prices.lock().fill(before, &[("rope", Cents(5))]);
        assert_eq!(quote(&prices, "rope"), None);
    }

    #[test]
    fn a_store_that_refuses_leaves_the_last_known_price_or_the_first() {
        let prices = filled();
        prices.flush();
        let cache = prices.lock();
        let [rope, lantern] = ["rope", "lantern"].map(|id| super::super::catalogue::product(id).unwrap());
        assert_eq!(cache.read_or_known(rope, &[]), Quote { price: Cents(5), source: Source::LastKnown });
        assert_eq!(cache.read_or_known(lantern, &[]).price, lantern.first_price);
    }
}
