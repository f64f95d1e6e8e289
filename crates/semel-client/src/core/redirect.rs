//! Where a call may go when its host names another address. Pure.
//!
//! Neither the key nor the credentials of a call leave the origin it was made for.

use http::{HeaderMap, Method, header};
use url::Url;

/// What to do about a redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// The same request, at this address.
    Same(Url),
    /// A GET without body and key, at this address: the effect has happened, this is where its result is.
    Get(Url),
    /// It leads away from the origin.
    OtherOrigin(Url),
    /// It leads nowhere: no address, or not one for HTTP.
    Nowhere,
}

/// Where `status` and `Location` lead a request of `method` at `from`.
#[must_use]
pub fn redirect(method: &Method, from: &Url, status: u16, headers: &HeaderMap) -> Redirect {
    let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    let Some(mut to) = location.and_then(|location| from.join(location).ok()) else {
        return Redirect::Nowhere;
    };
    if !matches!(to.scheme(), "http" | "https") || !to.username().is_empty() || to.password().is_some() {
        return Redirect::Nowhere;
    }
    to.set_fragment(None);
    if to.origin() != from.origin() {
        return Redirect::OtherOrigin(to);
    }
    let keeps_method = matches!(status, 307 | 308) || *method == Method::GET || *method == Method::HEAD;
    if keeps_method || (status != 303 && *method != Method::POST) {
        return Redirect::Same(to);
    }
    Redirect::Get(to)
}
