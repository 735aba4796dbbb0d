//! What is for sale. Prices here are where a price begins; the store has the last word.

/// A thing for sale.
#[derive(Debug, PartialEq, Eq)]
pub struct Product {
    pub id: &'static str,
    pub name: &'static str,
    pub blurb: &'static str,
    /// Until somebody sets another.
    pub first_price: Cents,
    /// The `d` of an SVG path in a box of 48 by 48.
    pub drawing: &'static str,
}

/// An amount of money. Whole cents, since halves do not add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cents(pub u32);

/// Dearer than anything here: a typing error.
const DEAREST: Cents = Cents(1_000_000);

impl Cents {
    /// `12`, `12.5`, `12.50` or `12,50`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().replace(',', ".");
        let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || part.len() > 2 || !digits(whole) || !digits(part) {
            return None;
        }
        let whole: u32 = whole.parse().ok()?;
        let part: u32 = format!("{part:0<2}").parse().ok()?;
        let cents = Self(whole.checked_mul(100)?.checked_add(part)?);
        (cents.0 > 0 && cents <= DEAREST).then_some(cents)
    }
}

impl std::fmt::Display for Cents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

pub fn product(id: &str) -> Option<&'static Product> {
    PRODUCTS.iter().find(|product| product.id == id)
}

/// All products, in the order of the page.
pub const PRODUCTS: [Product; 8] = [
    Product {
        id: "lantern",
        name: "Storm lantern",
        blurb: "Burns on when the wind does not agree.",
        first_price: Cents(4_900),
        drawing: "M18 8h12M20 8v6h8V8M16 18q8-6 16 0v18q-8 5-16 0zM24 22q4 5 0 9q-4-4 0-9M14 42h20",
    },
    Product {
        id: "rope",
        name: "Mooring rope, 20 m",
        blurb: "Three strands. Any one may go.",
        first_price: Cents(3_250),
        drawing: "M24 10a14 14 0 1 0 .1 0M24 16a8 8 0 1 0 .1 0M36 32l8 8M33 35l8 8",
    },
    Product {
        id: "anchor",
        name: "Folding anchor",
        blurb: "Four kilos of staying where you are.",
        first_price: Cents(7_990),
        drawing: "M24 6a4 4 0 1 0 .1 0M24 14v28M16 20h16M8 28q2 14 16 14q14 0 16-14M8 28l-2 6M40 28l2 6",
    },
    Product {
        id: "compass",
        name: "Hand compass",
        blurb: "Points the same way from every deck.",
        first_price: Cents(5_600),
        drawing: "M24 6a18 18 0 1 0 .1 0M24 10v3M24 35v3M10 24h3M35 24h3M30 18l-4 8l-8 4l4-8z",
    },
    Product {
        id: "kelp",
        name: "Dried kelp, 200 g",
        blurb: "From the cold side of the rock.",
        first_price: Cents(890),
        drawing: "M24 44V8M24 40q-12-4-10-16q10 4 10 16M24 32q12-4 10-16q-10 4-10 16M24 20q-8-3-7-11q7 3 7 11",
    },
    Product {
        id: "kettle",
        name: "Galley kettle",
        blurb: "Whistles before the watch changes.",
        first_price: Cents(3_800),
        drawing: "M12 40h24q2-18-8-22h-8q-10 4-8 22M20 18q4-8 8 0M36 28l8-6M24 12v-4M22 8h4",
    },
    Product {
        id: "bell",
        name: "Brass bell",
        blurb: "For fog, and for the end of the day.",
        first_price: Cents(6_450),
        drawing: "M24 6v4M14 34q2-4 2-12q1-12 8-12q7 0 8 12q0 8 2 12zM10 34h28M24 34v6M22 40h4",
    },
    Product {
        id: "sweater",
        name: "Gansey sweater",
        blurb: "Knitted in one piece, like a good farm.",
        first_price: Cents(11_900),
        drawing: "M18 10l-10 6l3 10l5-2v18h16V24l5 2l3-10l-10-6q-6 5-12 0M16 30h16M16 35h16",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_read_as_people_write_it_or_not_at_all() {
        for (text, cents) in [("12", 1_200), ("12.5", 1_250), (" 12,50 ", 1_250), ("0.01", 1)] {
            assert_eq!(Cents::parse(text), Some(Cents(cents)), "{text}");
        }
        for text in ["", ".5", "-1", "1.234", "0", "1e3", "10000.01", "99999999999", "1.2.3"] {
            assert_eq!(Cents::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_price_survives_its_own_text() {
        for product in &PRODUCTS {
            assert_eq!(Cents::parse(&product.first_price.to_string()), Some(product.first_price));
        }
    }

    #[test]
    fn no_two_products_share_an_id() {
        for product in &PRODUCTS {
            assert_eq!(self::product(product.id), Some(product));
        }
    }
}
