//! An authority that nobody else trusts, a certificate of it for `localhost`, and certificates of clients. Made afresh
//! for each test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Files and configurations of one authority.
#[derive(Debug)]
pub struct Certificates {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// The authority, as PEM.
    pub authority: PathBuf,
    /// The certificate for `localhost`, as PEM.
    pub certificate: PathBuf,
    /// Its private key, as PEM.
    pub private_key: PathBuf,
}

impl Certificates {
    /// Makes them in `folder`.
    ///
    /// # Errors
    /// When they cannot be made or written.
    pub fn make(folder: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?
            .signed_by(&key, &authority)?;
        let made = Self {
            issuer: authority,
            authority: folder.join("authority.pem"),
            certificate: folder.join("localhost.pem"),
            private_key: folder.join("localhost.key"),
        };
        fs::write(&made.authority, made.issuer.pem())?;
        fs::write(&made.certificate, certificate.pem())?;
        fs::write(&made.private_key, key.serialize_pem())?;
        Ok(made)
    }

    /// A server that shows the certificate and speaks `protocols`.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn server(&self, protocols: &[&str]) -> Result<Arc<ServerConfig>, Box<dyn std::error::Error>> {
        let chain = CertificateDer::pem_file_iter(&self.certificate)?.collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_file(&self.private_key)?;
        let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// A client that trusts only this authority and speaks `protocols`.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn client(&self, protocols: &[&str]) -> Result<Arc<ClientConfig>, Box<dyn std::error::Error>> {
        let mut config = ClientConfig::builder().with_root_certificates(self.roots()?).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// As [`Certificates::client`], showing a certificate for `name` that was made just now.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn client_named(&self, name: &str) -> Result<Arc<ClientConfig>, Box<dyn std::error::Error>> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let chain = vec![params.signed_by(&key, &self.issuer)?.der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der())?;
        let config = ClientConfig::builder().with_root_certificates(self.roots()?);
        Ok(Arc::new(config.with_client_auth_cert(chain, key)?))
    }

    fn roots(&self) -> Result<RootCertStore, Box<dyn std::error::Error>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.authority)?)?;
        Ok(roots)
    }
}
