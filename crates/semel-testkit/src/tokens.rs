//! An issuer of JSON Web Tokens: its keys, the set it publishes, and tokens that it did and did not sign.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::KeyPair;
use serde_json::{Value, json};

/// A key pair for ES256 under a name.
#[derive(Debug)]
pub struct Signer {
    kid: String,
    key: KeyPair,
}

impl Signer {
    /// A new key.
    ///
    /// # Panics
    /// When none can be made.
    #[must_use]
    pub fn new(kid: &str) -> Self {
        Self { kid: kid.to_owned(), key: KeyPair::generate().expect("a key pair can be made") }
    }

    /// The public key, as a key set has it.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let (x, y) = self.point()[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        json!({ "kty": "EC", "crv": "P-256", "kid": self.kid, "alg": "ES256", "use": "sig", "x": x, "y": y })
    }

    /// The public key as it is: what somebody might mistake for a secret.
    #[must_use]
    pub fn point(&self) -> &[u8] {
        self.key.public_key_raw()
    }

    /// A token with `claims` that this key signed.
    ///
    /// # Panics
    /// When it cannot be signed.
    #[must_use]
    pub fn token(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::ES256) };
        let key = EncodingKey::from_ec_der(&self.key.serialize_der());
        jsonwebtoken::encode(&header, claims, &key).expect("a token can be signed")
    }
}

/// A token with `claims` that says it was signed with the shared `secret`, under the name `kid`.
///
/// # Panics
/// When it cannot be signed.
#[must_use]
pub fn by_secret(kid: &str, claims: &Value, secret: &[u8]) -> String {
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::HS256) };
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(secret)).expect("a token can be signed")
}

/// A token with any header, any claims and any signature.
#[must_use]
pub fn forged(header: &Value, claims: &Value, signature: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", part(header), part(claims))
}

/// A shared secret as a key set would have it, which none should.
#[must_use]
pub fn secret_jwk(kid: &str, secret: &[u8]) -> Value {
    json!({ "kty": "oct", "kid": kid, "alg": "HS256", "k": URL_SAFE_NO_PAD.encode(secret) })
}

/// The published set.
#[must_use]
pub fn key_set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}
