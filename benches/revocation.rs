//! What a revocation list of a million serials costs: to read and verify, to keep, and to ask.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    missing_docs,
    reason = "a benchmark: what it cannot set up ends it"
)]

use criterion::{Criterion, criterion_group, criterion_main};
use partnergate::clock::{Clock, UnixNanos};
use partnergate::identity::{DistinguishedName, Fingerprint, Serial, SerialKey};
use partnergate::partner::RevocationMode;
use partnergate::trust::{AnchorRevocation, Checked, IssuerKey, RevocationList};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    RevocationReason, RevokedCertParams, SerialNumber,
};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

const ENTRIES: u64 = 1_000_000;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As long as those of public CAs.
fn serial(n: u64) -> [u8; 16] {
    let mut serial = [0x5a; 16];
    serial[8..].copy_from_slice(&n.to_be_bytes());
    serial
}

fn list() -> (Vec<u8>, String, IssuerKey) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Bench CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let issuer = IssuerKey::from_certificate(params.self_signed(&key).unwrap().der()).unwrap();
    let at = rcgen::date_time_ymd(2026, 1, 1);
    let list = CertificateRevocationListParams {
        this_update: at,
        next_update: rcgen::date_time_ymd(2100, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: (0..ENTRIES)
            .map(|n| RevokedCertParams {
                serial_number: SerialNumber::from_slice(&serial(n)),
                revocation_time: at,
                reason_code: Some(RevocationReason::Superseded),
                invalidity_date: None,
            })
            .collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&Issuer::new(params, key)).unwrap();
    (list.der().to_vec(), list.pem().unwrap(), issuer)
}

fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or(0)
}

/// Reads once and says what it took; on Linux, where the kernel keeps the peak and takes it back.
fn report(what: &str, bytes: &[u8], issuer: &IssuerKey, now: UnixNanos) -> RevocationList {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let (before, start) = (status("VmRSS:"), Instant::now());
    let list = RevocationList::read(bytes, std::slice::from_ref(issuer), now).unwrap();
    let (took, peak) = (start.elapsed(), status("VmHWM:"));
    let mib = |kib: u64| kib.saturating_sub(before) / 1024;
    eprintln!(
        "{what}: {} entries in {} bytes read in {} ms; resident memory at most {} MiB more, then {} MiB more",
        list.revoked(),
        bytes.len(),
        took.as_millis(),
        mib(peak),
        mib(status("VmRSS:")),
    );
    list
}

fn benches(c: &mut Criterion) {
    let (der, pem, issuer) = list();
    let now = Clock::new().now();
    let read = |bytes: &[u8]| RevocationList::read(black_box(bytes), std::slice::from_ref(&issuer), now).unwrap();
    let list = Arc::new(report("DER", &der, &issuer, now));
    drop(report("PEM", pem.as_bytes(), &issuer, now));

    let mut group = c.benchmark_group("a million entries");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    group.bench_function("read DER", |b| b.iter(|| read(&der)));
    group.bench_function("read PEM", |b| b.iter(|| read(pem.as_bytes())));
    group.finish();

    let mut n = 0;
    c.bench_function("is_revoked among a million", |b| {
        let keys: Vec<SerialKey> = (0..65_536).map(|n| SerialKey::of_integer(&serial(n * 31))).collect();
        b.iter(|| {
            n = (n + 1) % keys.len();
            list.is_revoked(black_box(keys[n]))
        });
    });
    let serial = Serial::parse("7b").unwrap();
    let revocation = AnchorRevocation::new(RevocationMode::Required, Duration::ZERO, vec![list.clone()]);
    c.bench_function("check a path of two", |b| {
        let (issuer, issuer_spki): (&DistinguishedName, Fingerprint) = (&list.scope().issuer, issuer.spki_sha256);
        let good =
            |is_ca| Checked { issuer, issuer_spki, serial: &serial, serial_key: serial.key(), is_ca, crl_urls: &[] };
        let path = [good(false), good(true)];
        b.iter(|| revocation.check(black_box(&path).iter().copied(), now).unwrap());
    });
}

criterion_group!(all, benches);
criterion_main!(all);
