//! `semel audit server URL`: the mirror image, an API that claims to honour keys is asked.

use std::io::Write;
use std::time::Duration;

use clap::{Args, ValueEnum};
use http::{Method, Uri};
use semel_auditor::mirror::cases::Case;
use semel_auditor::mirror::{self, Expect, NoAudit, Plan, Target, UNIQUE};

use super::{ReportOptions, watched};
use crate::exit::{Exit, Failure};

/// Find out which promises an API keeps that takes idempotency keys
///
/// The request must succeed each time it is sent with a new key, and it is sent some hundred times: point it at a
/// test environment. {unique} in the URL, a header or a body becomes a text that is new for each case.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  semel audit server http://127.0.0.1:8787/charges\n  \
    semel audit server https://api.example.com/v1/payments --expect stripe \\\n      \
    --credential 'Authorization: Bearer ALICE' --credential 'Authorization: Bearer BOB' \\\n      \
    --body '{\"amount\": 4000, \"order\": \"{unique}\"}' --count-url https://api.example.com/v1/payments/count\n\n\
    The guide docs/guides/audit-server.md has each promise and what is sent for it.")]
pub(super) struct ServerArgs {
    /// The resource that takes the request
    #[arg(value_name = "URL", value_parser = url)]
    url: Uri,

    /// Whose documentation the API follows
    #[arg(long, value_name = "PROFILE", default_value = "ietf")]
    expect: Profile,

    /// The method of the request
    #[arg(long, default_value = "POST")]
    method: Method,

    /// A header of every request, `Name: value`; may be given several times
    #[arg(long = "header", value_name = "HEADER", value_parser = header)]
    headers: Vec<(String, String)>,

    /// A header that says who calls; given twice, two callers are told apart
    #[arg(long = "credential", value_name = "HEADER", value_parser = header)]
    credentials: Vec<(String, String)>,

    /// The body of the request
    #[arg(long, value_name = "TEXT", default_value = r#"{"amount": 4000}"#)]
    body: String,

    /// Another body that the API takes [default: the body with its first number or text changed]
    #[arg(long, value_name = "TEXT")]
    body_other: Option<String>,

    /// A body that the API answers with 4xx
    #[arg(long, value_name = "TEXT")]
    body_invalid: Option<String>,

    /// A request that is answered without a body, such as `DELETE /orders/{unique}`
    #[arg(long, value_name = "REQUEST")]
    no_content: Option<Target>,

    /// A request that is answered 5xx, such as `POST /fails`
    #[arg(long, value_name = "REQUEST")]
    failing: Option<Target>,

    /// The header that carries the key
    #[arg(long, value_name = "NAME", default_value = "Idempotency-Key")]
    key_header: String,

    /// The header that marks a replay [default: Idempotent-Replayed for stripe, any about replays for ietf]
    #[arg(long, value_name = "NAME")]
    marker: Option<String>,

    /// A request without a key must be refused
    #[arg(long)]
    key_required: bool,

    /// A resource that tells how many effects there have been, as JSON [default: told from the answers]
    #[arg(long, value_name = "URL", value_parser = url)]
    count_url: Option<Uri>,

    /// Where in that JSON the number is, or a list to be counted
    #[arg(long, value_name = "POINTER", default_value = "", requires = "count_url")]
    count_pointer: String,

    /// Where in an answer its id is [default: `/id`, else Location, else the whole body]
    #[arg(long, value_name = "POINTER")]
    id_pointer: Option<String>,

    /// How many requests race
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u16).range(2..=500))]
    parallel: u16,

    /// How long an answer may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout_s: u64,

    /// Only promises whose name holds this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,

    #[command(flatten)]
    reports: ReportOptions,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Profile {
    /// draft-ietf-httpapi-idempotency-key-header-07
    Ietf,
    /// What Stripe documents
    Stripe,
}

/// An absolute URL. [`Uri`] takes no braces, so they travel encoded.
fn url(text: &str) -> Result<Uri, String> {
    let encoded = text.replace(UNIQUE, "%7Bunique%7D");
    let uri: Uri = encoded.parse().map_err(|error| format!("{error}"))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(_)) => Ok(uri),
        _ => Err("it must begin with http:// or https:// and a host".to_owned()),
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write it as `Name: value`")?;
    http::HeaderName::try_from(name.trim()).map_err(|error| error.to_string())?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

impl ServerArgs {
    fn plan(&self) -> Plan {
        Plan {
            method: self.method.clone(),
            headers: self.headers.clone(),
            body: self.body.clone(),
            body_other: self.body_other.clone(),
            body_invalid: self.body_invalid.clone(),
            no_content: self.no_content.clone(),
            failing: self.failing.clone(),
            credentials: self.credentials.clone(),
            expect: match self.expect {
                Profile::Ietf => Expect::Ietf,
                Profile::Stripe => Expect::Stripe,
            },
            key_header: self.key_header.clone(),
            marker: self.marker.clone(),
            key_required: self.key_required,
            count: self.count_url.clone().map(|url| (url, self.count_pointer.clone())),
            id: self.id_pointer.clone(),
            parallel: usize::from(self.parallel),
            timeout: Duration::from_secs(self.timeout_s),
            only: self.only.clone(),
            ..Plan::new(self.url.clone())
        }
    }
}

pub(super) fn run(args: ServerArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Runtime::new()?;
    let watched = watched();
    let mut progress = |case: &Case| {
        if watched {
            // A line for people who watch; that it cannot be written is no reason to stop.
            let _ = writeln!(anstream::stderr(), "{}: {}", case.name, case.about);
        }
    };
    let audit =
        runtime.block_on(mirror::audit(&args.plan(), &mut progress)).map_err(|error| match error {
            NoAudit::Unreachable(_) => Failure::new(Exit::Unreachable, error),
            NoAudit::Refused(_) => Failure::new(Exit::Failed, error),
        })?;
    args.reports.finish(&[audit])
}
