use super::*;
use crate::partner::{ClientAuthUsage, Revocation};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    CrlIssuingDistributionPoint, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, SerialNumber,
};
use std::fs;

struct World {
    folder: tempfile::TempDir,
    fetcher: Fetcher,
    signer: Issuer<'static, KeyPair>,
    anchor: Anchor,
}

fn world() -> World {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    let der = params.self_signed(&key).unwrap().der().to_vec();
    let folder = tempfile::tempdir().unwrap();
    let settings = FetchSettings {
        refresh: Duration::from_secs(900),
        timeout: Duration::from_secs(20),
        max_size: 4096,
        hosts: Vec::new(),
    };
    let (clock, metrics) = (Arc::new(Clock::new()), Arc::new(Metrics::new(100, false).unwrap()));
    let fetcher = Fetcher::new(folder.path(), &folder.path().join("state"), settings, clock, metrics).unwrap();
    let anchor = Anchor {
        name: AnchorName::parse("acme-ca").unwrap(),
        root: Root::Certificate { certificate: Der(der) },
        partners: Vec::new(),
        environments: Vec::new(),
        client_auth: ClientAuthUsage::Required,
        max_lifetime: None,
        revocation: Revocation {
            mode: RevocationMode::Required,
            sources: vec![CrlSource::File("acme.crl".into())],
            ..Revocation::default()
        },
        denied: Vec::new(),
    };
    World { folder, fetcher, signer: Issuer::new(params, key), anchor }
}

impl World {
    /// The list with this number is in the file from now on.
    fn publish(&self, number: u64) {
        self.publish_part(number, None);
    }

    /// The same for certificates that name this place only.
    fn publish_part(&self, number: u64, place: Option<String>) {
        let year = |years| rcgen::date_time_ymd(2020 + years, 1, 1);
        let list = CertificateRevocationListParams {
            this_update: year(0),
            next_update: year(80),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: place.map(|uri| CrlIssuingDistributionPoint {
                distribution_point: CrlDistributionPoint { uris: vec![uri] },
                scope: None,
            }),
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let new = self.folder.path().join("new");
        fs::write(&new, list.signed_by(&self.signer).unwrap().der()).unwrap();
        fs::rename(new, self.folder.path().join("acme.crl")).unwrap();
    }

    fn plan(&self, anchor: &Anchor) -> Planned {
        self.fetcher.plan([Arc::new(anchor.clone())].iter(), &Bundles::new())
    }

    fn numbers(&self) -> Vec<String> {
        let lists = self.fetcher.lists();
        lists.values().flat_map(|anchor| anchor.lists.iter().map(|list| shown(list))).collect()
    }
}

#[test]
fn list_that_comes_while_a_change_is_planned_is_not_lost_to_it() {
    let world = world();
    world.publish(1);
    world.fetcher.adopt(world.plan(&world.anchor));
    assert_eq!((world.numbers(), world.fetcher.arrived().is_some()), (vec!["1".to_owned()], false));
    let planned = world.plan(&world.anchor);
    world.publish(2);
    world.fetcher.look();
    world.fetcher.adopt(planned);
    assert_eq!((world.numbers(), world.fetcher.arrived().is_some()), (vec!["2".to_owned()], true));
}

#[test]
fn list_without_a_copy_outlives_a_change_of_its_anchor_and_no_change_of_who_signs() {
    let mut world = world();
    world.publish(2);
    world.fetcher.adopt(world.plan(&world.anchor));
    world.fetcher.look();
    fs::remove_dir_all(world.folder.path().join("state")).unwrap();
    fs::remove_file(world.folder.path().join("acme.crl")).unwrap();
    world.anchor.revocation.grace = Duration::from_secs(60);
    world.fetcher.adopt(world.plan(&world.anchor));
    assert_eq!(world.numbers(), ["2"]);
    // An older one does not come in through the change either.
    world.publish(1);
    world.anchor.revocation.grace = Duration::from_secs(120);
    world.fetcher.adopt(world.plan(&world.anchor));
    assert_eq!(world.numbers(), ["2"]);
    let other = self::world();
    world.anchor.root = other.anchor.root;
    world.fetcher.adopt(world.plan(&world.anchor));
    assert_eq!(world.numbers(), Vec::<String>::new());
}

/// What is on disk decides after a restart who is revoked.
#[test]
fn plan_that_comes_to_nothing_leaves_the_kept_copies_alone_and_another_source_brings_no_older_list() {
    let mut world = world();
    world.publish(5);
    world.fetcher.adopt(world.plan(&world.anchor));
    world.fetcher.look();
    let kept = || {
        let files = fs::read_dir(world.folder.path().join("state/crl")).unwrap().flatten();
        files.map(|e| (e.file_name(), fs::read(e.path()).unwrap())).collect::<std::collections::BTreeMap<_, _>>()
    };
    let before = kept();
    assert_eq!(before.len(), 2, "a list and its label");
    world.anchor.revocation.sources = vec![CrlSource::File("other.crl".into())];
    for number in [3, 7] {
        world.publish(number);
        fs::rename(world.folder.path().join("acme.crl"), world.folder.path().join("other.crl")).unwrap();
        let planned = world.plan(&world.anchor);
        let numbers: Vec<String> = planned.lists().values().flat_map(|a| a.lists.iter().map(|l| shown(l))).collect();
        assert_eq!(numbers, [number.max(5).to_string()]);
        assert_eq!(kept(), before);
    }
}

/// A CA that dates and scopes its lists as it likes must not fill memory or disk.
#[test]
fn source_has_one_list_whatever_scopes_it_goes_through() {
    let world = world();
    for part in 0..20 {
        world.publish_part(part + 1, Some(format!("http://crl.acme.example/{part}")));
        if part == 0 {
            world.fetcher.adopt(world.plan(&world.anchor));
        }
        world.fetcher.look();
        // The first stays: with it gone, nothing would be known of its number.
        assert_eq!(world.numbers(), ["1"]);
        assert_eq!(fs::read_dir(world.folder.path().join("state/crl")).unwrap().count(), 2);
    }
}

#[test]
fn url_that_was_asked_and_given_up_is_asked_again_at_once() {
    let mut world = world();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    world.anchor.revocation.sources = vec![CrlSource::Url(url)];
    world.fetcher.adopt(world.plan(&world.anchor));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let due =
        || world.fetcher.state().anchors.values().all(|held| held.items.values().all(|i| i.due <= Instant::now()));
    runtime.block_on(async {
        tokio::select! {
            _ = world.fetcher.ask() => panic!("nobody answers"),
            accepted = tokio::task::spawn_blocking(move || silent.accept()) => assert!(accepted.is_ok()),
        }
        assert!(due());
    });
}
