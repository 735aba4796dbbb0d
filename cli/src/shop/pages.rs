//! The shop's pages: HTML and CSS without a script, a font or a picture from elsewhere, so that
//! they look the same on a machine without a network.

use std::fmt::{self, Write as _};

use super::Place;
use super::catalogue::{Cents, PRODUCTS, Product};
use super::prices::{Quote, Source};
use super::session::{Customer, NAME_CHARS_MAX};

const STYLE: &str = include_str!("pages/shop.css");

/// Who looks at a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visitor {
    Customer {
        name: String,
        pieces: u64,
    },
    Stranger,
    /// The store did not say.
    Unknown {
        reason: String,
    },
}

/// A product in a basket.
#[derive(Debug)]
pub struct Line<'a> {
    pub product: &'static Product,
    pub quote: &'a Quote,
    pub count: u64,
}

impl Line<'_> {
    pub fn cents(&self) -> u64 {
        u64::from(self.quote.price.0).saturating_mul(self.count)
    }
}

/// The lines of a basket; `quotes` are in the order of the catalogue.
pub fn lines<'a>(customer: &Customer, quotes: &'a [Quote]) -> Vec<Line<'a>> {
    let quoted = PRODUCTS.iter().zip(quotes);
    quoted
        .filter_map(|(product, quote)| {
            let (_, count) = customer.basket.iter().find(|(held, _)| held.id == product.id)?;
            Some(Line { product, quote, count: *count })
        })
        .collect()
}

pub fn catalogue(place: &Place, visitor: &Visitor, quotes: &[Quote]) -> String {
    let mut body = String::new();
    if let Visitor::Unknown { reason } = visitor {
        let _ = write!(
            body,
            "<p class=notice>Your basket can not be reached at the moment ({}). Nothing in it is lost.</p>",
            Escaped(reason)
        );
    }
    if quotes.iter().any(|quote| quote.source == Source::LastKnown) {
        body.push_str("<p class=notice>Prices are the last that this server knew.</p>");
    }
    body.push_str("<ul class=goods>");
    for (product, quote) in PRODUCTS.iter().zip(quotes) {
        let Product { id, name, blurb, drawing, .. } = product;
        let _ = write!(
            body,
            "<li id={id}><svg viewBox='0 0 48 48' aria-hidden=true><path d='{drawing}'/></svg>\
             <h2>{name}</h2><p>{blurb}</p>\
             <form method=post action=/basket/add><input type=hidden name=id value={id}>\
             <b class=price>{}</b><button>Take it</button></form></li>",
            quote.price
        );
    }
    body.push_str("</ul>");
    layout(place, visitor, &place.title, &body)
}

pub fn basket(place: &Place, customer: &Customer, quotes: &[Quote]) -> String {
    let lines = lines(customer, quotes);
    let mut body = String::from("<h2>Your basket</h2>");
    if lines.is_empty() {
        body.push_str("<p>There is nothing in it yet. <a href=/>Have a look around.</a></p>");
    } else {
        body.push_str("<table>");
        for line in &lines {
            let Product { id, name, .. } = line.product;
            let _ = write!(
                body,
                "<tr><td>{name}<td class=number>{} × {}<td class=number>{}<td>\
                 <form method=post action=/basket/remove><input type=hidden name=id value={id}>\
                 <button class=quiet>Put back</button></form></tr>",
                line.count,
                line.quote.price,
                Amount(line.cents())
            );
        }
        let total = Amount(lines.iter().map(Line::cents).sum());
        let _ = write!(body, "<tr class=total><td>Total<td><td class=number>{total}<td></tr></table>");
    }
    let visitor = Visitor::Customer { name: customer.name.clone(), pieces: customer.pieces() };
    layout(place, &visitor, "Your basket", &body)
}

pub fn login(place: &Place, complaint: Option<&str>) -> String {
    let mut body = String::from("<h2>Who are you?</h2>");
    if let Some(complaint) = complaint {
        let _ = write!(body, "<p class=notice>{}</p>", Escaped(complaint));
    }
    let _ = write!(
        body,
        "<form class=card method=post action=/login><label>Name <input name=name maxlength={NAME_CHARS_MAX} \
         required autofocus autocomplete=given-name></label><button>Log in</button></form>\
         <p class=small>A demonstration asks for no password.</p>"
    );
    layout(place, &Visitor::Stranger, "Log in", &body)
}

pub fn admin(place: &Place, quotes: &[Quote], complaint: Option<&str>) -> String {
    let mut body = String::from("<h2>Prices</h2>");
    if let Some(complaint) = complaint {
        let _ = write!(body, "<p class=notice>{}</p>", Escaped(complaint));
    }
    body.push_str(
        "<p>A change is written to the store, and every server drops what it has cached.</p><table>",
    );
    for (product, quote) in PRODUCTS.iter().zip(quotes) {
        let Product { id, name, .. } = product;
        let source = match quote.source {
            Source::Cache => "from memory",
            Source::Store => "just read",
            Source::LastKnown => "last known",
        };
        let _ = write!(
            body,
            "<tr><td>{name}<td class=small>{source}<td><form method=post action=/admin/price>\
             <input type=hidden name=id value={id}>\
             <input name=price value='{}' size=7 inputmode=decimal aria-label='Price of {name}'>\
             <button class=quiet>Change</button></form></tr>",
            quote.price
        );
    }
    body.push_str("</table>");
    layout(place, &Visitor::Stranger, "Prices", &body)
}

pub fn unavailable(place: &Place, reason: &str) -> String {
    let body = format!(
        "<h2>Not now</h2><p class=notice>This could not be written safely, so it was not done: {}.</p>\
         <p>Nothing that was confirmed is lost. Try again in a moment, or <a href=/>look around</a> meanwhile.</p>",
        Escaped(reason)
    );
    layout(place, &Visitor::Unknown { reason: reason.to_owned() }, "Not now", &body)
}

pub fn not_found(place: &Place) -> String {
    layout(place, &Visitor::Stranger, "Not here", "<h2>Not here</h2><p><a href=/>Back to the shop</a></p>")
}

fn layout(place: &Place, visitor: &Visitor, title: &str, body: &str) -> String {
    let Place { title: shop, node, zone, release, version, pid, .. } = place;
    let short = release.get(..12).unwrap_or(release);
    let account = match visitor {
        Visitor::Customer { name, pieces } => format!(
            "<span>Hello, {}</span><a href=/basket>Basket <b>{pieces}</b></a>\
             <form method=post action=/logout><button class=quiet>Log out</button></form>",
            Escaped(name)
        ),
        Visitor::Stranger => "<a href=/basket>Basket</a><a href=/login>Log in</a>".to_owned(),
        Visitor::Unknown { .. } => "<a href=/basket>Basket</a>".to_owned(),
    };
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content='width=device-width,initial-scale=1'>\
         <title>{}</title><style>{STYLE}</style>\
         <header><h1><a href=/>{}</a></h1><nav>{account}</nav></header><main>{body}</main>\
         <footer>Served by <b>{}</b> in zone {}, process {pid}, release <b>{}</b> <code>{}</code>\
         <span><a href=/admin>Prices</a></span></footer></html>\n",
        Escaped(title),
        Escaped(shop),
        Escaped(node),
        Escaped(zone),
        Escaped(version),
        Escaped(short),
    )
}

/// Cents as people write them, larger than one price may be.
struct Amount(u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match u32::try_from(self.0) {
            Ok(cents) => Cents(cents).fmt(f),
            Err(_) => write!(f, "{}.{:02}", self.0 / 100, self.0 % 100),
        }
    }
}

/// Text from outside, as text.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::SessionId;
    use super::*;

    fn place() -> Place {
        Place {
            title: "Kelp & Rope".into(),
            node: "node-2".into(),
            zone: "a".into(),
            app: "shop".into(),
            release: "ab".repeat(32),
            version: "7".into(),
            pid: 42,
            port: 1,
        }
    }

    fn quotes(source: Source) -> Vec<Quote> {
        PRODUCTS.iter().map(|product| Quote { price: product.first_price, source }).collect()
    }

    #[test]
    fn every_page_says_who_served_it() {
        let page = catalogue(&place(), &Visitor::Stranger, &quotes(Source::Cache));
        assert!(page.contains("<b>node-2</b>") && page.contains("process 42") && page.contains("<b>7</b>"));
        assert!(page.contains("<code>abababababab</code>"));
    }

    #[test]
    fn a_name_can_not_become_markup() {
        let visitor = Visitor::Customer { name: "<script>'\"&".into(), pieces: 1 };
        let page = catalogue(&place(), &visitor, &quotes(Source::Cache));
        assert!(page.contains("&lt;script&gt;&#39;&quot;&amp;"));
        assert!(!page.contains("<script>"));
    }

    #[test]
    fn a_catalogue_without_the_store_says_what_is_missing() {
        let visitor = Visitor::Unknown { reason: "CLUSTERDOWN no quorum".into() };
        let page = catalogue(&place(), &visitor, &quotes(Source::LastKnown));
        assert!(page.contains("no quorum") && page.contains("last that this server knew"));
        assert!(page.contains("Storm lantern"));
    }

    #[test]
    fn a_basket_adds_up() {
        let customer = Customer {
            id: SessionId::draw(),
            name: "Ada".into(),
            basket: vec![(&PRODUCTS[0], 2), (&PRODUCTS[4], 1)],
        };
        let page = basket(&place(), &customer, &quotes(Source::Store));
        assert!(page.contains("2 × 49.00") && page.contains("98.00"), "{page}");
        assert!(page.contains("106.90"), "{page}");
    }
}
