//! Whose key it is. One tenant can never see, block or detect another's keys.
//!
//! **With nothing configured the tenant is a digest of the credential, so a rotated credential is another tenant,
//! and a retry across the rotation runs again.** Configure parts that name the principal.

use http::header::{self, HeaderMap, HeaderName};
use http::request::Parts;
use semel::{Code, Tenant};

/// How the tenant of a request is found.
#[derive(Clone, Debug, Default)]
pub enum TenantRule {
    /// A digest of `Authorization`, else of `X-Api-Key`; only a cookie: refused; no credential: public.
    #[default]
    Credential,
    /// All callers share their keys.
    Shared,
    /// These parts, all of them, in this order.
    Parts(Vec<TenantPart>),
}

/// One part of a tenant's name.
#[derive(Clone, Debug)]
pub enum TenantPart {
    /// The value of a header that something trusted sets.
    Header(HeaderName),
    /// The first characters of an API key, which name its owner.
    KeyPrefix {
        /// The header that carries the key.
        header: HeaderName,
        /// How many characters.
        chars: usize,
    },
    /// A digest of `Authorization`.
    Authorization,
    /// The subject of the client certificate, which the server puts into the request as [`CertificateSubject`].
    Certificate,
    /// A claim of the bearer token, after its signature was verified.
    #[cfg(feature = "jwt")]
    Claim(TokenClaim),
}

/// The DER subject of a verified client certificate, as a request extension.
#[derive(Clone, Debug)]
pub struct CertificateSubject(pub Vec<u8>);

/// A claim in tokens signed by one of `keys`.
#[cfg(feature = "jwt")]
#[derive(Clone)]
pub struct TokenClaim {
    /// The claim: `sub`, `org_id`.
    pub name: String,
    /// Who must have issued the token, where that is checked.
    pub issuer: Option<String>,
    /// Whom the token must be for, where that is checked.
    pub audience: Option<String>,
    /// The keys that signatures are verified with; may be replaced while serving.
    pub keys: std::sync::Arc<std::sync::RwLock<jsonwebtoken::jwk::JwkSet>>,
}

#[cfg(feature = "jwt")]
impl std::fmt::Debug for TokenClaim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenClaim").field("name", &self.name).finish_non_exhaustive()
    }
}

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

impl TenantRule {
    /// The tenant of a request.
    ///
    /// # Errors
    /// [`Code::TenantNotConfigured`] when there is only a cookie and nothing says what it means;
    /// [`Code::TenantUnknown`] when there are credentials and the configured parts are not in them.
    pub fn derive(&self, request: &Parts) -> Result<Tenant, Code> {
        match self {
            Self::Shared => Ok(Tenant::shared()),
            Self::Credential => by_credential(&request.headers),
            Self::Parts(parts) => by_parts(parts, request),
        }
    }
}

fn by_credential(headers: &HeaderMap) -> Result<Tenant, Code> {
    for name in [header::AUTHORIZATION, API_KEY] {
        let mut values = headers.get_all(&name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => return Ok(Tenant::credential(value.as_bytes())),
            (Some(_), Some(_)) => return Err(Code::TenantUnknown),
            (None, _) => {}
        }
    }
    if headers.contains_key(header::COOKIE) { Err(Code::TenantNotConfigured) } else { Ok(Tenant::public()) }
}

fn by_parts(parts: &[TenantPart], request: &Parts) -> Result<Tenant, Code> {
    let found: Option<Vec<String>> = parts.iter().map(|part| part.find(request)).collect();
    if let Some(found) = found {
        let names: Vec<&str> = found.iter().map(String::as_str).collect();
        return Ok(Tenant::id(&names));
    }
    let has_credential = [header::AUTHORIZATION, API_KEY, header::COOKIE]
        .iter()
        .any(|name| request.headers.contains_key(name))
        || parts.iter().any(|part| part.find(request).is_some())
        || request.extensions.get::<CertificateSubject>().is_some();
    if has_credential { Err(Code::TenantUnknown) } else { Ok(Tenant::public()) }
}

impl TenantPart {
    fn find(&self, request: &Parts) -> Option<String> {
        match self {
            Self::Header(name) => only(&request.headers, name).map(str::to_owned),
            Self::KeyPrefix { header, chars } => {
                only(&request.headers, header).and_then(|key| key.get(..*chars)).map(str::to_owned)
            }
            Self::Authorization => only(&request.headers, &header::AUTHORIZATION)
                .map(|value| Tenant::credential(value.as_bytes()).to_string()),
            Self::Certificate => request
                .extensions
                .get::<CertificateSubject>()
                .map(|subject| Tenant::credential(&subject.0).to_string()),
            #[cfg(feature = "jwt")]
            Self::Claim(claim) => claim.find(&request.headers),
        }
    }
}

/// The value of a header that is there exactly once and is not empty.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().filter(|value| !value.is_empty()),
        _ => None,
    }
}

#[cfg(feature = "jwt")]
impl TokenClaim {
    fn find(&self, headers: &HeaderMap) -> Option<String> {
        let (scheme, token) = only(headers, &header::AUTHORIZATION)?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let said = jsonwebtoken::decode_header(token).ok()?;
        let key = {
            let keys = self.keys.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            let jwk = match &said.kid {
                Some(kid) => keys.find(kid)?,
                None => keys.keys.first()?,
            };
            // A symmetric key in a published set would let anybody who reads the set sign tokens.
            if matches!(jwk.algorithm, jsonwebtoken::jwk::AlgorithmParameters::OctetKey(_)) {
                return None;
            }
            jsonwebtoken::DecodingKey::from_jwk(jwk).ok()?
        };
        let mut validation = jsonwebtoken::Validation::new(said.alg);
        validation.validate_nbf = true;
        // What is only compared when it is there would let a token pass that does not say it.
        let mut required = vec!["exp"];
        validation.validate_aud = self.audience.is_some();
        if let Some(audience) = &self.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        let claims = jsonwebtoken::decode::<serde_json::Value>(token, &key, &validation).ok()?.claims;
        match claims.get(&self.name)? {
            serde_json::Value::String(text) if !text.is_empty() => Some(text.clone()),
            serde_json::Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Parts {
        let mut builder = http::Request::post("/");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn by_default(headers: &[(&str, &str)]) -> Result<Tenant, Code> {
        TenantRule::default().derive(&request(headers))
    }

    #[test]
    fn credentials_keep_tenants_apart_when_nothing_is_configured() {
        let alice = by_default(&[("authorization", "Bearer a")]).unwrap();
        assert_ne!(alice, by_default(&[("authorization", "Bearer b")]).unwrap());
        assert_ne!(alice, by_default(&[("x-api-key", "Bearer a2")]).unwrap());
        assert_eq!(by_default(&[]).unwrap(), Tenant::public());
    }

    #[test]
    fn a_cookie_alone_is_refused_until_a_setting_says_what_it_means() {
        assert_eq!(by_default(&[("cookie", "session=1")]), Err(Code::TenantNotConfigured));
    }

    #[test]
    fn configured_parts_must_all_be_there_when_there_is_a_credential() {
        let parts = TenantRule::Parts(vec![
            TenantPart::Header(HeaderName::from_static("x-org")),
            TenantPart::KeyPrefix { header: HeaderName::from_static("x-api-key"), chars: 4 },
        ]);
        let both = parts.derive(&request(&[("x-org", "acme"), ("x-api-key", "sk_1secret")])).unwrap();
        let rotated = parts.derive(&request(&[("x-org", "acme"), ("x-api-key", "sk_1other")])).unwrap();
        assert_eq!(both, rotated);
        assert_eq!(parts.derive(&request(&[("x-org", "acme")])), Err(Code::TenantUnknown));
        assert_eq!(parts.derive(&request(&[("cookie", "s=1")])), Err(Code::TenantUnknown));
        assert_eq!(parts.derive(&request(&[])).unwrap(), Tenant::public());
    }
}
