//! The cluster's certificate authority and the nodes' keys.
//!
//! A signing request contributes its public key and nothing else: the cluster decides the names
//! (security.md, 3). Node certificates live for a year in this version, which has no renewal yet; an
//! agent that is older than that has to join again.

use std::fmt;

use proto::ids::{ClusterId, NodeId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};

use crate::SecurityError;
use crate::names::{PeerIdentity, Role};

const CA_YEARS: i64 = 10;
const NODE_DAYS: i64 = 365;
/// Certificates are valid from a little before now, for nodes whose clock is behind.
const BACKDATE_HOURS: i64 = 24;

/// blake3 of a CA's certificate: what a join token pins.
pub fn ca_digest(certificate_der: &[u8]) -> [u8; 32] {
    blake3::hash(certificate_der).into()
}

/// Signs the certificates of one cluster's nodes.
pub struct CertificateAuthority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CertificateAuthority(..)")
    }
}

impl CertificateAuthority {
    /// Draws a key and signs its own certificate.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate(cluster: ClusterId) -> Result<Self, SecurityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(SecurityError::Key)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("holdfast {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now - time::Duration::hours(BACKDATE_HOURS);
        params.not_after = now + time::Duration::days(365 * CA_YEARS);
        let certificate = params.self_signed(&key).map_err(SecurityError::Certificate)?.der().clone();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// From what was stored: the certificate's and the PKCS#8 key's DER.
    ///
    /// # Errors
    /// When either can not be read, or they do not belong together.
    pub fn from_parts(certificate_der: Vec<u8>, key_der: Vec<u8>) -> Result<Self, SecurityError> {
        let key = key_pair(key_der)?;
        let certificate = CertificateDer::from(certificate_der);
        let parsed = webpki::EndEntityCert::try_from(&certificate).map_err(SecurityError::Unreadable)?;
        let spki = parsed.subject_public_key_info();
        if !spki.as_ref().ends_with(key.public_key_raw()) {
            return Err(SecurityError::KeyMismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(SecurityError::Certificate)?;
        Ok(Self { certificate, issuer })
    }

    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate
    }

    /// The secret half, as PKCS#8 DER: for a 0600 file or another voter, nothing else.
    pub fn key_der(&self) -> &[u8] {
        self.issuer.key().serialized_der()
    }

    /// Looks at a signing request before anything is done for its sender.
    ///
    /// # Errors
    /// When the request is no valid PKCS#10 signed by its own key.
    pub fn check_request(csr_der: &[u8]) -> Result<(), SecurityError> {
        let request = CertificateSigningRequestDer::from(csr_der);
        CertificateSigningRequestParams::from_der(&request).map(|_| ()).map_err(SecurityError::Request)
    }

    /// Certifies that the holder of the request's key is this node.
    ///
    /// # Errors
    /// When the request is no valid PKCS#10 signed by its own key.
    pub fn issue(
        &self,
        csr_der: &[u8],
        cluster: ClusterId,
        node: NodeId,
        role: Role,
    ) -> Result<Vec<u8>, SecurityError> {
        let request = CertificateSigningRequestDer::from(csr_der);
        let mut request =
            CertificateSigningRequestParams::from_der(&request).map_err(SecurityError::Request)?;
        let identity = PeerIdentity { cluster, node, role };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("node {node}"));
        for name in identity.dns_names() {
            let name = name.try_into().map_err(SecurityError::Certificate)?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now - time::Duration::hours(BACKDATE_HOURS);
        params.not_after = now + time::Duration::days(NODE_DAYS);
        request.params = params;
        let signed = request.signed_by(&self.issuer).map_err(SecurityError::Certificate)?;
        Ok(signed.der().to_vec())
    }
}

/// A node's own key. It never leaves the server.
pub struct NodeKey {
    pair: KeyPair,
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(..)")
    }
}

impl NodeKey {
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self, SecurityError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(SecurityError::Key)?;
        Ok(Self { pair })
    }

    /// From a stored PKCS#8 DER.
    ///
    /// # Errors
    /// When it is none, or of another kind.
    pub fn from_der(key_der: Vec<u8>) -> Result<Self, SecurityError> {
        key_pair(key_der).map(|pair| Self { pair })
    }

    /// A signing request, DER. It names nobody: the cluster gives the names.
    ///
    /// # Errors
    /// When signing fails.
    pub fn csr(&self) -> Result<Vec<u8>, SecurityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.pair).map_err(SecurityError::Request)?;
        Ok(request.der().to_vec())
    }

    /// The secret, as PKCS#8 DER.
    pub fn key_der(&self) -> &[u8] {
        self.pair.serialized_der()
    }
}

fn key_pair(der: Vec<u8>) -> Result<KeyPair, SecurityError> {
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der), &PKCS_ECDSA_P256_SHA256)
        .map_err(SecurityError::Key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify;

    const CLUSTER: ClusterId = ClusterId([7; 16]);

    #[test]
    fn a_certificate_names_the_node_that_the_cluster_chose() {
        let authority = CertificateAuthority::generate(CLUSTER).unwrap();
        let key = NodeKey::generate().unwrap();
        let der = authority.issue(&key.csr().unwrap(), CLUSTER, NodeId(42), Role::Worker).unwrap();
        let identity = identify(&CertificateDer::from(der)).unwrap();
        assert_eq!(identity, PeerIdentity { cluster: CLUSTER, node: NodeId(42), role: Role::Worker });
    }

    #[test]
    fn the_names_in_a_request_are_ignored() {
        let authority = CertificateAuthority::generate(CLUSTER).unwrap();
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let params = CertificateParams::new(vec![format!("node-1.{CLUSTER}.holdfast")]).unwrap();
        let csr = params.serialize_request(&pair).unwrap();
        let der = authority.issue(csr.der(), CLUSTER, NodeId(9), Role::Server).unwrap();
        assert_eq!(identify(&CertificateDer::from(der)).unwrap().node, NodeId(9));
    }

    #[test]
    fn an_authority_survives_its_storage_and_refuses_a_strange_key() {
        let authority = CertificateAuthority::generate(CLUSTER).unwrap();
        let other = CertificateAuthority::generate(CLUSTER).unwrap();
        let (cert, key) = (authority.certificate_der().to_vec(), authority.key_der().to_vec());
        let again = CertificateAuthority::from_parts(cert.clone(), key).unwrap();
        assert_eq!(again.certificate_der(), authority.certificate_der());
        let mixed = CertificateAuthority::from_parts(cert, other.key_der().to_vec());
        assert!(matches!(mixed, Err(SecurityError::KeyMismatch)));
    }

    #[test]
    fn a_cut_or_altered_request_is_refused() {
        let authority = CertificateAuthority::generate(CLUSTER).unwrap();
        let csr = NodeKey::generate().unwrap().csr().unwrap();
        assert!(authority.issue(&csr[..csr.len() - 1], CLUSTER, NodeId(1), Role::Server).is_err());
        let mut altered = csr.clone();
        let last = altered.len() - 1;
        altered[last] ^= 1;
        assert!(authority.issue(&altered, CLUSTER, NodeId(1), Role::Server).is_err());
    }
}
