//! Certificates: the gateway's own, its clients', and the upstream's authorities.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use semel_tower::tenant::CertificateSubject;

use crate::config::{TlsConfig, UpstreamTlsConfig};

/// The gateway's side towards clients: HTTP/2 and HTTP/1.1, no early data.
///
/// # Errors
/// Names the file that cannot be read or used.
pub(crate) fn server(config: &TlsConfig) -> io::Result<Arc<ServerConfig>> {
    let builder = ServerConfig::builder();
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(authorities(path)?);
            builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder(roots).build().map_err(|error| refused(path, error))?,
            )
        }
    };
    let chain = certificates(&config.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&config.private_key)
        .map_err(|error| refused(&config.private_key, error))?;
    let mut server =
        builder.with_single_cert(chain, key).map_err(|error| refused(&config.certificate, error))?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(server))
}

/// The gateway's side towards the upstream: the system's authorities, or those of the configured file.
///
/// # Errors
/// Names the file that cannot be read or used.
pub(crate) fn client(config: &UpstreamTlsConfig) -> io::Result<ClientConfig> {
    let roots = match &config.ca {
        Some(path) => authorities(path)?,
        None => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots
        }
    };
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

/// The subject of the certificate that a client proved to own.
pub(crate) fn subject(chain: Option<&[CertificateDer<'_>]>) -> Option<CertificateSubject> {
    let certificate = webpki::EndEntityCert::try_from(chain?.first()?).ok()?;
    Some(CertificateSubject(certificate.subject().to_vec()))
}

fn authorities(path: &Path) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| refused(path, error))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| refused(path, error))?.collect();
    let certificates = certificates.map_err(|error| refused(path, error))?;
    if certificates.is_empty() { Err(refused(path, "no certificate in it")) } else { Ok(certificates) }
}

fn refused(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {error}", path.display()))
}
