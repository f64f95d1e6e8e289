//! The model as JSON: one object for one audit, a list for several.

use crate::report::Audit;

/// Indented JSON with a newline at its end.
#[must_use]
pub fn render(audits: &[Audit]) -> String {
    let text = match audits {
        [one] => serde_json::to_string_pretty(one),
        all => serde_json::to_string_pretty(all),
    };
    // Strings, numbers and lists of them always have a JSON form.
    text.unwrap_or_default() + "\n"
}
