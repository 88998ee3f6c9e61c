//! Connecting with certificates.

use std::{env, fs, path::PathBuf};

use super::{
    Watched,
    access::{builder, error_of, is_shared},
    cluster_servers::Cluster,
};
use crate::{
    leaks::is_elsewhere,
    support::{self, OwnServer, free_port},
};

/// A folder with a CA, a server's certificate and a client's.
pub struct Certificates(PathBuf);

impl Certificates {
    pub fn new() -> Certificates {
        let folder = env::temp_dir().join(support::unique("commontrip-tls"));
        fs::create_dir(&folder).unwrap();
        let made = Certificates(folder);
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let mut name = rcgen::DistinguishedName::new();
        name.push(rcgen::DnType::CommonName, "the tests' authority");
        params.distinguished_name = name;
        let ca = params.self_signed(&key).unwrap();
        fs::write(made.path("ca.pem"), ca.pem()).unwrap();
        let issuer = rcgen::Issuer::new(params, key);
        for name in ["server", "client"] {
            let key = rcgen::KeyPair::generate().unwrap();
            let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
            let params = rcgen::CertificateParams::new(names).unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap();
            fs::write(made.path(&format!("{name}.pem")), certificate.pem()).unwrap();
            fs::write(made.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        made
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    /// Starts a server that uses TLS on the returned port, and optionally requires a client's
    /// certificate.
    pub fn serve(&self, clients: bool) -> (OwnServer, u16) {
        let port = free_port().unwrap();
        let path = |file| self.path(file).display().to_string();
        let server = OwnServer::start_with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &path("server.pem"),
            "--tls-key-file",
            &path("server.key"),
            "--tls-ca-cert-file",
            &path("ca.pem"),
            "--tls-auth-clients",
            if clients { "yes" } else { "no" },
        ]);
        (server, port)
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Shares circuits over TLS with a private CA; returns the running server.
async fn is_shared_over_tls() -> (OwnServer, Certificates, String) {
    let certificates = Certificates::new();
    let (server, port) = certificates.serve(false);
    let url = format!("rediss://{}@localhost:{port}/", support::userinfo());
    is_shared(|| {
        let builder = builder().tls_ca_file(certificates.path("ca.pem"));
        builder.open(&url).unwrap()
    })
    .await;
    (server, certificates, url)
}

#[tokio::test]
async fn tls_with_a_ca_of_ones_own_carries_commands_and_pushes() {
    let (_server, certificates, url) = is_shared_over_tls().await;
    let said = error_of(builder().open(&url).unwrap()).await;
    assert!(said.contains("certificate"), "{said}");
    let missing = builder().tls_ca_file(certificates.path("no.pem"));
    let said = error_of(missing.open(&url).unwrap()).await;
    assert!(
        said.contains("the CA certificate cannot be read from") && said.contains("no.pem"),
        "{said}"
    );
}

#[tokio::test]
async fn mutual_tls_lets_in_who_has_a_certificate_and_nobody_else() {
    let certificates = Certificates::new();
    let (_server, port) = certificates.serve(true);
    let url = format!("rediss://{}@127.0.0.1:{port}/", support::userinfo());
    let trusting = || builder().tls_ca_file(certificates.path("ca.pem"));
    is_shared(|| {
        let known = trusting().tls_client_files(
            certificates.path("client.pem"),
            certificates.path("client.key"),
        );
        known.open(&url).unwrap()
    })
    .await;
    error_of(trusting().open(&url).unwrap()).await;
}

#[tokio::test]
async fn a_provider_of_cryptography_is_installed_for_tls_only() {
    let test = "topology::tls::a_provider_of_cryptography_is_installed_for_tls_only";
    if is_elsewhere(test).await {
        return;
    }
    let installed = || rustls::crypto::CryptoProvider::get_default().is_some();
    let plain = OwnServer::start();
    is_shared(|| builder().open(&plain.url()).unwrap()).await;
    let watched = Watched::start().await;
    is_shared(|| builder().open(&watched.url()).unwrap()).await;
    let cluster = Cluster::start(3, false).await;
    is_shared(|| builder().open(&cluster.url()).unwrap()).await;
    assert!(!installed());
    is_shared_over_tls().await;
    assert!(installed());
}
