//! Any bytes as a policy bundle, as a tar in one, and as a document in that: refused with a sentence, or files with plain
//! names whose policy can be compiled or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use partnergate::policy::bundle::{Archive, Bundle, BundleLimits, Required, Verification};
use std::time::Duration;

const LIMITS: BundleLimits = BundleLimits { size: 1 << 20, file: 1 << 18, files: 50, depth: 8 };

fuzz_target!(|bytes: &[u8]| {
    let anybody = Verification { required: Required::No, ..Verification::default() };
    look(Archive::read(bytes, LIMITS), &anybody);
    look(Archive::read(&stored(bytes), LIMITS), &anybody);
    let document = ("data.json".to_owned(), bytes.to_vec());
    let main = ("main.rego".to_owned(), b"package partnergate\n".to_vec());
    let manifest = (".manifest".to_owned(), bytes.to_vec());
    look(Archive::of([document, main.clone()]), &anybody);
    look(Archive::of([manifest, main]), &anybody);
});

fn look(archive: Result<Archive, partnergate::policy::bundle::BundleError>, how: &Verification) {
    let archive = match archive {
        Ok(archive) => archive,
        Err(why) => return assert!(!why.to_string().is_empty()),
    };
    for (name, _) in archive.iter() {
        assert!(!name.starts_with('/') && name.split('/').all(|part| !matches!(part, "" | "." | "..")), "{name}");
    }
    // What is read is written and read again as the same.
    let written = archive.write().expect("it was read");
    assert_eq!(Archive::read(&written, BundleLimits::default()).as_ref(), Ok(&archive));
    if let Ok(bundle) = Bundle::of(&archive, how) {
        let limits = partnergate::policy::PolicyLimits { time: Duration::from_millis(1), instructions: 100 };
        let _ = partnergate::policy::Policy::compile(&bundle.source, partnergate::policy::EngineKind::Rvm, limits);
    }
}

/// A gzip that does not compress, so that a fuzzer sees through to the tar.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::none());
    std::io::Write::write_all(&mut gzip, bytes).expect("to memory");
    gzip.finish().expect("to memory")
}
