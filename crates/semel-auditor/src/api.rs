//! What the audited client expects of its API: where its keys are, and what a success looks like.

use serde::{Deserialize, Serialize};

/// The API that the server stands for. The default answers `{"id":"semel-audit","object":"payment"}` with 200.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Api {
    /// Headers that carry a key, besides all whose name contains `idempot`.
    pub key_headers: Vec<String>,
    /// Body fields that carry a key: of a JSON object, `a.b` within another one, or of a form.
    pub key_fields: Vec<String>,
    /// The status of a success.
    pub status: u16,
    /// Headers of a success, besides `Content-Type: application/json`.
    pub headers: Vec<(String, String)>,
    /// The body of a success.
    pub body: String,
    /// The body of a failure, where the script gives none; by default a short JSON object with an `error`.
    pub failure: Option<String>,
    /// Requests that are no calls, such as for a token: answered at once, noted, and not judged. So is every GET, HEAD
    /// and OPTIONS.
    pub aside: Vec<Aside>,
}

/// A request that is no call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aside {
    /// How its path begins.
    pub path: String,
    /// What it is answered.
    #[serde(default)]
    pub body: String,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            key_headers: Vec::new(),
            key_fields: Vec::new(),
            status: 200,
            headers: Vec::new(),
            body: r#"{"id":"semel-audit","object":"payment"}"#.to_owned(),
            failure: None,
            aside: Vec::new(),
        }
    }
}
