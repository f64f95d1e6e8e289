//! Connection strings as `psql` understands them: URLs and `key=value` pairs, several hosts, TLS files, and the
//! environment variables for what a string leaves out.
//!
//! Not the connecting. Next: [`crate::tls`], [`crate::session`].

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that says nothing for so long is asked whether it lives.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Where the servers are, and how far they are trusted.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    /// One for each host: which of them takes writes, and may be believed, is for [`crate::session`] to find out.
    pub(crate) hosts: Vec<Config>,
    pub(crate) tls: Tls,
    /// `migrate=true`, which `psql` does not know.
    pub(crate) migrate: bool,
}

/// What of the server's certificate is verified, and against what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) verify: Verify,
    /// A file of certificates, or `system`.
    pub(crate) root: Option<PathBuf>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verify {
    #[default]
    Nothing,
    Authority,
    AuthorityAndName,
}

impl Address {
    /// Reads a URL (`postgres://`, `postgresql://`) or pairs. The error says what is wrong without repeating it: a
    /// password may be in it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let url = ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme));
        let (rest, mut ours) = if url { split_url(text)? } else { split_pairs(text)? };
        let mut config: Config = rest.parse().map_err(|error| chain(&error))?;
        for (name, variable) in [("sslmode", "PGSSLMODE"), ("sslrootcert", "PGSSLROOTCERT")] {
            if !ours.iter().any(|(known, _)| known == name) {
                ours.extend(env::var(variable).ok().map(|value| (name.to_owned(), value)));
            }
        }
        fill_from_environment(&mut config)?;
        let (mut tls, mut migrate) = (Tls::default(), false);
        for (name, value) in ours {
            if name == "migrate" {
                migrate = value.parse().map_err(|_| "migrate is neither true nor false".to_owned())?;
                continue;
            }
            set(&mut config, &mut tls, &name, &value)?;
        }
        if tls.verify == Verify::Nothing && tls.root.is_some() {
            tls.verify = Verify::Authority;
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_application_name().is_none() {
            config.application_name("semel");
        }
        config.keepalives_idle(KEEPALIVE_IDLE).keepalives_interval(KEEPALIVE_INTERVAL).keepalives_retries(2);
        Ok(Self { hosts: apart(&config), tls, migrate })
    }
}

/// The hosts of `config`, each by itself.
fn apart(config: &Config) -> Vec<Config> {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let one = |at: usize| {
        let mut one = Config::new();
        match hosts.get(at) {
            Some(Host::Tcp(host)) => _ = one.host(host),
            Some(Host::Unix(path)) => _ = one.host_path(path),
            None => {}
        }
        addresses.get(at).map(|address| one.hostaddr(*address));
        ports.get(at).or(ports.first()).map(|port| one.port(*port));
        config.get_user().map(|user| one.user(user));
        config.get_password().map(|password| one.password(password));
        config.get_dbname().map(|database| one.dbname(database));
        config.get_options().map(|options| one.options(options));
        config.get_application_name().map(|name| one.application_name(name));
        config.get_connect_timeout().map(|timeout| one.connect_timeout(*timeout));
        config.get_tcp_user_timeout().map(|timeout| one.tcp_user_timeout(*timeout));
        config.get_keepalives_interval().map(|interval| one.keepalives_interval(interval));
        config.get_keepalives_retries().map(|retries| one.keepalives_retries(retries));
        one.ssl_mode(config.get_ssl_mode()).ssl_negotiation(config.get_ssl_negotiation());
        one.keepalives(config.get_keepalives()).keepalives_idle(config.get_keepalives_idle());
        one.channel_binding(config.get_channel_binding());
        one
    };
    (0..hosts.len().max(addresses.len())).map(one).collect()
}

/// What `tokio-postgres` does not read, or reads otherwise than libpq.
fn is_ours(name: &str) -> bool {
    [
        "migrate",
        "sslmode",
        "sslrootcert",
        "sslcert",
        "sslkey",
        "gssencmode",
        "client_encoding",
        "target_session_attrs",
    ]
    .contains(&name)
}

fn set(config: &mut Config, tls: &mut Tls, name: &str, value: &str) -> Result<(), String> {
    match (name, value) {
        ("sslmode", mode) => {
            let (mode, verify) = match mode {
                "disable" => (SslMode::Disable, Verify::Nothing),
                "allow" | "prefer" => (SslMode::Prefer, Verify::Nothing),
                "require" => (SslMode::Require, Verify::Nothing),
                "verify-ca" => (SslMode::Require, Verify::Authority),
                "verify-full" => (SslMode::Require, Verify::AuthorityAndName),
                _ => {
                    return Err(
                        "sslmode is not one of disable, allow, prefer, require, verify-ca, verify-full"
                            .into(),
                    );
                }
            };
            config.ssl_mode(mode);
            tls.verify = verify;
        }
        ("sslrootcert", path) => tls.root = Some(path.into()),
        ("sslcert", path) => tls.certificate = Some(path.into()),
        ("sslkey", path) => tls.key = Some(path.into()),
        ("gssencmode", "disable" | "prefer") => {}
        ("client_encoding", encoding) if ["utf8", "utf-8", "auto"].contains(&&*encoding.to_lowercase()) => {}
        // Only a server that takes writes will do, whatever is said.
        ("target_session_attrs", "any" | "read-write" | "primary") => {}
        _ => return Err(format!("this value of {name} is not supported")),
    }
    Ok(())
}

fn fill_from_environment(config: &mut Config) -> Result<(), String> {
    let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        config.host(variable("PGHOST").unwrap_or_else(|| "localhost".to_owned()));
    }
    if config.get_ports().is_empty()
        && let Some(port) = variable("PGPORT")
    {
        config.port(port.parse().map_err(|_| "PGPORT is not a port".to_owned())?);
    }
    if config.get_user().is_none()
        && let Some(user) = variable("PGUSER").or_else(|| variable("USER"))
    {
        config.user(user);
    }
    if config.get_password().is_none()
        && let Some(password) = variable("PGPASSWORD")
    {
        config.password(password);
    }
    if config.get_dbname().is_none()
        && let Some(database) = variable("PGDATABASE")
    {
        config.dbname(database);
    }
    Ok(())
}

type Pairs = Vec<(String, String)>;

/// Takes our parameters out of a URL.
fn split_url(text: &str) -> Result<(String, Pairs), String> {
    let Some((base, query)) = text.split_once('?') else { return Ok((text.to_owned(), Vec::new())) };
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if is_ours(name) {
            let value =
                percent_decode_str(value).decode_utf8().map_err(|_| format!("{name} is not UTF-8"))?;
            ours.push((name.to_owned(), value.into_owned()));
        } else {
            theirs.push(pair);
        }
    }
    let mark = if theirs.is_empty() { "" } else { "?" };
    Ok((format!("{base}{mark}{}", theirs.join("&")), ours))
}

/// Takes our parameters out of `key=value` pairs, whose values may be in single quotes with backslashes.
fn split_pairs(text: &str) -> Result<(String, Pairs), String> {
    let (mut theirs, mut ours) = (String::new(), Vec::new());
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or("a pair has no equals sign")?;
        let (value, after) = read_value(after.trim_start())?;
        let name = name.trim_end();
        if is_ours(name) {
            ours.push((name.to_owned(), value));
        } else {
            let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
            theirs.push_str(&format!("{name}='{quoted}' "));
        }
        rest = after.trim_start();
    }
    Ok((theirs, ours))
}

fn read_value(text: &str) -> Result<(String, &str), String> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            space if !quoted && space.is_whitespace() => return Ok((value, &text[at..])),
            other => value.push(other),
        }
    }
    if quoted { Err("a quoted value has no end".to_owned()) } else { Ok((value, "")) }
}

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls_of(text: &str) -> (SslMode, Tls) {
        let address = Address::parse(text).unwrap();
        (address.hosts[0].get_ssl_mode(), address.tls)
    }

    #[test]
    fn urls_and_pairs_say_the_same() {
        let texts = [
            "postgres://me:it%20is@one:1,two:2/shop?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem&connect_timeout=7",
            r"host=one,two port=1,2 user=me password='it is' dbname=shop sslmode = verify-full sslrootcert=/etc/ca.pem connect_timeout=7",
        ];
        for text in texts {
            let Address { hosts, tls, .. } = Address::parse(text).unwrap();
            assert_eq!(hosts.len(), 2);
            for (config, (host, port)) in hosts.iter().zip([("one", 1), ("two", 2)]) {
                assert_eq!(
                    (config.get_hosts(), config.get_ports()),
                    (&[Host::Tcp(host.into())][..], &[port][..])
                );
                assert_eq!((config.get_user(), config.get_dbname()), (Some("me"), Some("shop")));
                assert_eq!(config.get_password(), Some(&b"it is"[..]));
                assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(7)));
                assert_eq!(config.get_ssl_mode(), SslMode::Require);
            }
            assert_eq!(tls.verify, Verify::AuthorityAndName);
            assert_eq!(tls.root, Some("/etc/ca.pem".into()));
        }
    }

    #[test]
    fn require_verifies_the_authority_when_one_is_given() {
        let (mode, tls) = tls_of("postgres://h/d?sslmode=require");
        assert_eq!((mode, tls.verify), (SslMode::Require, Verify::Nothing));
        let (_, tls) = tls_of("postgres://h/d?sslmode=require&sslrootcert=ca.pem");
        assert_eq!(tls.verify, Verify::Authority);
        assert_eq!(tls_of("postgres://h/d").0, SslMode::Prefer);
    }

    #[test]
    fn quoted_values_keep_their_quotes_and_spaces() {
        let address = Address::parse(r"host=h password='a\'b \\ c' user=u").unwrap();
        assert_eq!(address.hosts[0].get_password(), Some(&br"a'b \ c"[..]));
    }

    #[test]
    fn refused_strings_do_not_show_the_password() {
        for text in [
            "postgres://me:secret@h/d?sslmode=maybe",
            "postgres://me:secret@h/d?target_session_attrs=standby",
            "postgres://me:secret@h/d?nonsense=1",
            "host=h password='secret",
            "host=h password=secret nonsense",
            "postgres://me:secret@h:port/d",
        ] {
            let refused = Address::parse(text).unwrap_err();
            assert!(!refused.is_empty() && !refused.contains("secret"), "{refused}");
        }
    }
}
