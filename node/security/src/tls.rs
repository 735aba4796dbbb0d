//! TLS 1.3 settings: both sides proved, on every connection of the mesh.

use std::fmt;
use std::sync::Arc;

use proto::ids::{ClusterId, NodeId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, ring as provider, verify_tls13_signature};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

use crate::{SecurityError, ca_digest};

/// A member's certificate, its key and the CA it trusts.
pub struct TlsIdentity {
    cluster: ClusterId,
    node: NodeId,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
    ca: CertificateDer<'static>,
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsIdentity(node {} of {:?})", self.node, self.cluster)
    }
}

impl TlsIdentity {
    /// From DER: certificate, PKCS#8 key, CA certificate.
    pub fn new(cluster: ClusterId, node: NodeId, certificate: Vec<u8>, key: Vec<u8>, ca: Vec<u8>) -> Self {
        Self { cluster, node, certificate: certificate.into(), key, ca: ca.into() }
    }

    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    pub fn ca_der(&self) -> &[u8] {
        &self.ca
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, SecurityError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone())?;
        Ok(Arc::new(roots))
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }

    /// The CA goes with the leaf, for joiners, who know no more of it than a digest.
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone(), self.ca.clone()]
    }
}

/// For the peer port. A client without a certificate is let through TLS, because a joiner has none
/// yet; what it may call is decided by who it is.
///
/// # Errors
/// When the certificate or key can not be used.
pub fn server_config(identity: &TlsIdentity, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, SecurityError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(identity.roots()?, crypto())
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain(), identity.key())?;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// For dialling peers. Who is meant is said by the server name ([`crate::server_name`]).
///
/// # Errors
/// When the certificate or key can not be used.
pub fn client_config(identity: &TlsIdentity, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, SecurityError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(identity.roots()?, crypto()).build()?;
    let mut config = ClientConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&TLS13])?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(identity.chain(), identity.key())?;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// For a joiner: the server must show the CA that the token names, and a certificate signed by it.
pub fn joiner_config(expected_ca: [u8; 32]) -> Arc<ClientConfig> {
    let verifier = Arc::new(PinnedCa { digest: expected_ca, provider: crypto() });
    let mut config = ClientConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&TLS13])
        .expect("ring speaks TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// The joiner does not know the cluster's id yet, so it asks for no particular name; the CA's
/// digest says which cluster it is.
pub fn joiner_server_name() -> ServerName<'static> {
    ServerName::try_from("join.holdfast").expect("a valid DNS name")
}

fn crypto() -> Arc<CryptoProvider> {
    Arc::new(provider::default_provider())
}

/// Trusts the chain whose CA has the digest, whatever name the leaf has.
#[derive(Debug)]
struct PinnedCa {
    digest: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = intermediates
            .iter()
            .find(|certificate| ca_digest(certificate) == self.digest)
            .ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &roots,
            &[],
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
