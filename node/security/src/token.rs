//! Join tokens: `HFT1-<digest of the CA>-<secret>`, both in lower-case base32.
//!
//! Like Docker Swarm's, a token carries what the joiner needs to know the cluster by before it
//! says anything: the digest of the CA. The secret is 160 random bits, stored by the cluster as its
//! blake3 only; that hash needs no salt, since nobody can guess its input.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use rand::RngCore as _;

const PREFIX: &str = "HFT1";
const SECRET_BYTES: usize = 20;

/// What a server shows to be let in.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    ca_digest: [u8; 32],
    secret: [u8; SECRET_BYTES],
}

/// Why a text is no token.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseTokenError {
    #[error("a token begins with {PREFIX}-")]
    Prefix,
    #[error("a token has three parts, separated by '-'; a part is missing or was cut off")]
    Parts,
    #[error("a part of the token is not base32 of the right length: it was cut off or mistyped")]
    Encoding,
}

impl JoinToken {
    /// Draws a new secret for the cluster whose CA has this digest.
    pub fn generate(ca_digest: [u8; 32]) -> Self {
        let mut secret = [0; SECRET_BYTES];
        rand::rng().fill_bytes(&mut secret);
        Self { ca_digest, secret }
    }

    pub fn ca_digest(&self) -> [u8; 32] {
        self.ca_digest
    }

    /// What the cluster stores in the secret's place.
    pub fn hash(&self) -> [u8; 32] {
        blake3::derive_key("holdfast 2026 join token secret", &self.secret)
    }

    /// A public name for the token, from its hash.
    pub fn id(&self) -> String {
        HEXLOWER.encode(&self.hash()[..5])
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [digest, secret] = [&self.ca_digest[..], &self.secret[..]]
            .map(|bytes| BASE32_NOPAD.encode(bytes).to_ascii_lowercase());
        write!(f, "{PREFIX}-{digest}-{secret}")
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.id())
    }
}

impl FromStr for JoinToken {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('-'));
        let (digest, secret) =
            rest.ok_or(ParseTokenError::Prefix)?.split_once('-').ok_or(ParseTokenError::Parts)?;
        Ok(Self { ca_digest: decode(digest)?, secret: decode(secret)? })
    }
}

fn decode<const N: usize>(part: &str) -> Result<[u8; N], ParseTokenError> {
    // Bounded before it is decoded: base32 has five bits a letter.
    if part.len() != (N * 8).div_ceil(5) {
        return Err(ParseTokenError::Encoding);
    }
    let bytes =
        BASE32_NOPAD.decode(part.to_ascii_uppercase().as_bytes()).map_err(|_| ParseTokenError::Encoding)?;
    bytes.try_into().map_err(|_| ParseTokenError::Encoding)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_survives_its_text_and_its_debug_shows_no_secret() {
        let token = JoinToken::generate([3; 32]);
        let text = token.to_string();
        assert_eq!(text.parse(), Ok(token.clone()));
        let secret = text.rsplit_once('-').unwrap().1;
        assert!(!format!("{token:?}").contains(secret));
    }

    #[test]
    fn a_token_that_was_cut_off_says_so() {
        let text = JoinToken::generate([3; 32]).to_string();
        assert_eq!(text[..text.len() - 1].parse::<JoinToken>(), Err(ParseTokenError::Encoding));
        assert_eq!("HFT1-abc".parse::<JoinToken>(), Err(ParseTokenError::Parts));
        assert_eq!("SWMTKN-1-a-b".parse::<JoinToken>(), Err(ParseTokenError::Prefix));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,200}") {
            if let Ok(token) = text.parse::<JoinToken>() {
                prop_assert_eq!(token.to_string(), text.to_string());
            }
        }
    }
}
