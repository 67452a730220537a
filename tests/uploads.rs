//! Clips leave the device: to S3 and by HTTP PUT, over power cuts, servers that fail, refuse or are away, and clips that
//! are deleted in between. The server is [`crate::common::bucket`]'s.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tempfile::TempDir;
use uuid::Uuid;
use vedette::agent::config::{CameraId, Credentials, Device, Schedule, Span, Upload, UploadPolicy, UploadTarget};
use vedette::agent::incident::{CloseReason, EvidenceSource, Incident, Transition};
use vedette::agent::store::{
    ClipDone, ClipIntent, ClipRecording, DeviceContext, IncidentRecord, Labels, Limits, OutboxPolicy, Store,
    StoredUpload, Times, UploadState,
};
use vedette::agent::upload::{self, Pacing, UploadCounters, Uploads};
use vedette::base::clock::{Clock, Mono, SystemClock, Wall};
use vedette::base::digest;
use vedette::base::progress::Beat;
use vedette::base::stop::StopToken;
use vedette::contract::alert::{AlertKind, ClockState};
use vedette::contract::outbox::Outbox;

use crate::common::agent::{Agent, stderr, stdout};
use crate::common::broker::Broker;
use crate::common::bucket::{ACCESS_KEY, Asked, Bucket, SECRET_KEY};
use crate::common::pki::Pki;
use crate::common::wait_for;

const MB: usize = 1_000_000;

/// A device's store with clips in it, and no daemon.
struct Shelf {
    dir: PathBuf,
    _temporary: Option<TempDir>,
    store: Store,
    writer: Option<std::thread::JoinHandle<()>>,
}

impl Shelf {
    fn new() -> Shelf {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut shelf = Shelf::of(dir.path());
        shelf._temporary = Some(dir);
        shelf
    }

    /// In a device's state directory, while no daemon runs on it.
    fn of(dir: &Path) -> Shelf {
        let context = DeviceContext {
            site: "test".into(),
            device: "unit".into(),
            outbox: OutboxPolicy::Queue {
                consumers: Vec::new(),
                keep: Duration::from_secs(86_400),
                max_bytes: u64::MAX,
            },
            labels: Labels::default(),
            clock_state: Arc::new(|| ClockState { synchronised: true, estimated_error_ms: None }),
        };
        let (store, writer) = Store::open(dir, context, Arc::new(SystemClock::new())).expect("the store opens");
        let writer = std::thread::spawn(move || writer.run(&Beat::detached()).expect("the writer ends well"));
        Shelf { dir: dir.to_path_buf(), _temporary: None, store, writer: Some(writer) }
    }

    /// A clip of so many bytes that no two have in common; its incident.
    fn clip(&self, bytes: usize) -> Uuid {
        let id = self.planned_clip();
        let path = format!("clips/2026/11/22/gate/180000_{id}.mp4");
        let file = self.dir.join(&path);
        let mut random = fastrand::Rng::with_seed(id.as_u128() as u64);
        let mut content = vec![0; bytes];
        random.fill(&mut content);
        std::fs::create_dir_all(file.parent().expect("below clips")).expect("writable");
        std::fs::write(&file, &content).expect("writable");
        self.store.clip_recording(ClipRecording { incident: id, path }).expect("recorded");
        let done = ClipDone {
            incident: id,
            start: Wall::from_unix_ms(1_790_000_000_000),
            event_offset_ms: 10_000,
            duration_ms: 20_000,
            size_bytes: bytes as u64,
            sha256: digest::of_bytes(&content),
            peak_jpeg_path: None,
            thumbnail: None,
        };
        self.store.clip_done(done).expect("done");
        id
    }

    /// A closed incident whose clip is still to be made.
    fn planned_clip(&self) -> Uuid {
        let label = Wall::from_unix_ms(1_790_000_000_000);
        let incident = Incident {
            id: Uuid::now_v7(),
            camera: CameraId::new("gate"),
            source: EvidenceSource::Classifier,
            class: "Fighting".into(),
            start: Mono::ZERO,
            end: Mono::from_millis(2_000),
            peak_score: 0.9,
            peak_at: Mono::ZERO,
            peak_scores: BTreeMap::from([("Fighting".into(), 0.9)]),
            peak_fps: 8.0,
            threshold: 0.5,
            windows: 2,
            model: None,
            later_model: None,
        };
        let id = incident.id;
        let clock = ClockState { synchronised: true, estimated_error_ms: None };
        let times = Times { start: label, end: label, peak: label, event: label, clock };
        for transition in
            [Transition::Opened(incident.clone()), Transition::Closed(incident.clone(), CloseReason::Quiet)]
        {
            let clip = ClipIntent::Planned { start: label };
            self.store.record(IncidentRecord { transition, times, clip }).expect("taken");
        }
        self.store.flush().expect("committed");
        id
    }

    fn row(&self, id: Uuid) -> Option<StoredUpload> {
        self.store.reader().upload(id).expect("readable")
    }

    fn wait_until(&self, id: Uuid, state: UploadState) -> StoredUpload {
        wait_for(&format!("{id} to be {state:?}"), || self.row(id).filter(|row| row.state == state))
    }

    fn close(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.store.close();
        if let Some(writer) = self.writer.take() {
            writer.join().expect("the writer ends");
        }
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        self.end();
    }
}

/// The upload task over a shelf.
struct Task {
    stop: StopToken,
    counters: Arc<UploadCounters>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Short waits, in which a refusal is still waited out far longer.
const QUICK: Pacing = Pacing {
    away_first: Duration::from_millis(20),
    away_most: Duration::from_millis(100),
    refused_first: Duration::from_millis(800),
    refused_most: Duration::from_secs(5),
    look_every: Duration::from_millis(20),
    // Other tests may have the machine.
    stalled_after: Duration::from_secs(60),
};

impl Task {
    fn start(shelf: &Shelf, upload: Upload) -> Task {
        Task::start_with(shelf, upload, QUICK)
    }

    fn start_with(shelf: &Shelf, upload: Upload, pacing: Pacing) -> Task {
        let (stop, counters) = (StopToken::new(), Arc::<UploadCounters>::default());
        let parts = upload::Parts {
            upload,
            device: Device { site: "test".into(), id: "unit".into(), place: None },
            state_dir: shelf.dir.clone(),
            store: shelf.store.clone(),
            knows_time_of_day: Arc::new(|| true),
            clock: Arc::new(SystemClock::new()),
            pacing,
            counters: counters.clone(),
            stop: stop.clone(),
            beat: Beat::detached(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runs");
        let thread = std::thread::spawn(move || runtime.block_on(upload::run(parts)).expect("the config can be used"));
        Task { stop, counters, thread: Some(thread) }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            // A test that failed unwinds through here; its own message is the one that matters.
            drop(thread.join());
        }
    }
}

fn to_s3(port: u16) -> Upload {
    Upload {
        policy: UploadPolicy::OnRequest,
        target: UploadTarget::S3 {
            bucket: "clips".into(),
            prefix: "harbour".into(),
            endpoint: Some(format!("http://127.0.0.1:{port}")),
            region: "us-east-1".into(),
        },
        ca_pem: None,
        credentials: Some(Credentials { user: ACCESS_KEY.into(), password: SECRET_KEY.into() }),
        limit_bytes_per_s: None,
        schedule: None,
        part_bytes: 6 * MB,
    }
}

fn to_web(port: u16) -> Upload {
    Upload {
        target: UploadTarget::Http { url: format!("http://127.0.0.1:{port}/dav") },
        credentials: Some(Credentials { user: "device".into(), password: SECRET_KEY.into() }),
        ..to_s3(port)
    }
}

fn key(id: Uuid) -> String {
    format!("harbour/test/unit/2026/11/22/gate/180000_{id}.mp4")
}

fn parts_put(log: &[Asked]) -> Vec<u32> {
    log.iter().filter(|a| a.status == 200).filter_map(Asked::part).collect()
}

#[test]
fn a_clip_that_is_asked_for_goes_in_parts_is_verified_and_announced() {
    let (shelf, bucket) = (Shelf::new(), Bucket::s3());
    let (small, large, other) = (shelf.clip(100_000), shelf.clip(14 * MB), shelf.clip(1_000));
    let uploads = Uploads::new(shelf.store.clone(), Some(&to_s3(0)));
    let queued = uploads.request(large, "mqtt:soc").expect("it is there");
    assert_eq!((queued.state, queued.requested_by.as_str()), (UploadState::Queued, "mqtt:soc"));
    uploads.request(small, "cli").expect("it is there");
    let task = Task::start(&shelf, to_s3(bucket.port()));
    for (id, bytes) in [(large, 14 * MB), (small, 100_000)] {
        let row = shelf.wait_until(id, UploadState::Done);
        assert_eq!(row.url.as_deref(), Some(format!("s3://clips/{}", key(id)).as_str()));
        assert_eq!((row.attempts, row.error), (1, None));
        let object = bucket.object(&format!("/clips/{}", key(id))).expect("it is there");
        let alert =
            shelf.store.pending(0, 100).expect("readable").into_iter().filter_map(|row| row.dispatch.alert().cloned());
        let alert =
            alert.filter(|a| a.incident.id == id).find(|a| a.kind == AlertKind::ClipUploaded).expect("announced");
        let clip = alert.clip.expect("a clip");
        assert_eq!(clip.url, row.url);
        assert_eq!((object.len(), clip.size_bytes), (bytes, Some(bytes as u64)));
        assert_eq!(clip.sha256, Some(digest::of_bytes(&object)), "what is there is what the alert says");
    }
    let log = bucket.log();
    assert_eq!(parts_put(&log), [1, 2, 3], "12 of 14 MB in two parts, the rest in a third");
    assert!(log.iter().all(|a| a.status == 200), "{log:?}");
    assert_eq!((shelf.row(other), bucket.keys().len()), (None, 2), "nobody asked for the third");
    assert!(task.counters.sent_bytes.load(Ordering::Relaxed) >= 14 * MB as u64 + 100_000);
    let again = uploads.request(small, "cli").expect("it was sent");
    assert_eq!(again.state, UploadState::Done, "what was sent stays sent");
}

#[test]
fn always_sends_all_and_a_clip_that_is_not_made_yet_waits() {
    let (shelf, bucket) = (Shelf::new(), Bucket::web());
    let early = shelf.clip(5_000);
    let task = Task::start(&shelf, Upload { policy: UploadPolicy::Always, ..to_web(bucket.port()) });
    let row = shelf.wait_until(early, UploadState::Done);
    let path = format!("/dav/test/unit/2026/11/22/gate/180000_{early}.mp4");
    assert_eq!(row.url, Some(format!("http://127.0.0.1:{}{path}", bucket.port())));
    assert_eq!((row.requested_by.as_str(), bucket.object(&path).map(|o| o.len())), ("policy", Some(5_000)));
    let late = shelf.clip(6_000);
    shelf.wait_until(late, UploadState::Done);

    let planned = shelf.planned_clip();
    let uploads = Uploads::new(shelf.store.clone(), Some(&to_web(0)));
    assert_eq!(uploads.request(planned, "cli").expect("it will be there").state, UploadState::Queued);
    shelf.store.clip_lost(planned, "the camera was gone").expect("recorded");
    let failed = shelf.row(planned).expect("a row");
    assert_eq!(failed.state, UploadState::Failed);
    assert!(failed.error.expect("a reason").contains("the camera was gone"));
    let refused = uploads.request(planned, "cli").expect_err("there is none");
    assert!(refused.to_string().contains("is lost"), "{refused}");
    assert!(uploads.request(Uuid::nil(), "cli").is_err());
    let never = Uploads::new(shelf.store.clone(), None).request(early, "cli").expect_err("the policy is never");
    assert!(never.to_string().contains("upload.policy"), "{never}");
    drop(task);
}

#[test]
fn a_server_that_fails_or_is_away_delays_and_loses_nothing() {
    let shelf = Shelf::new();
    let ids = [shelf.clip(13 * MB), shelf.clip(2_000)];
    // Nobody listens there yet.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    drop(listener);
    for id in ids {
        shelf.store.request_upload(id, "cli").expect("queued");
    }
    let _task = Task::start(&shelf, to_s3(port));
    for id in ids {
        let row = wait_for("both to have been tried", || shelf.row(id).filter(|row| row.error.is_some()));
        assert!(row.error.expect("one").contains("could not"), "each has its turn, and says why");
    }
    let bucket = Bucket::on(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("still free"), false, None);
    bucket.fail(3, 500);
    for id in ids {
        let row = shelf.wait_until(id, UploadState::Done);
        assert!(row.attempts >= 2 && row.error.is_none(), "{row:?}");
        assert!(bucket.object(&format!("/clips/{}", key(id))).is_some());
    }
    assert_eq!(bucket.log().iter().filter(|a| a.status == 500).count(), 3);
    assert_eq!(parts_put(&bucket.log()), [1, 2, 3], "no part twice");
}

#[test]
fn wrong_credentials_are_named_and_not_tried_again_and_again() {
    for (upload, bucket) in [(to_s3(0), Bucket::s3()), (to_web(0), Bucket::web())] {
        let shelf = Shelf::new();
        let id = shelf.clip(2_000);
        shelf.store.request_upload(id, "cli").expect("queued");
        let target = match upload.target {
            UploadTarget::S3 { .. } => to_s3(bucket.port()).target,
            UploadTarget::Http { .. } => to_web(bucket.port()).target,
        };
        let credentials = upload.credentials.map(|c| Credentials { password: "wrong".into(), ..c });
        let task = Task::start(&shelf, Upload { target, credentials, ..to_s3(0) });
        let error = wait_for("the refusal", || shelf.row(id).and_then(|row| row.error));
        assert!(error.contains("upload.credentials_file") && !error.contains("wrong"), "{error}");
        // An absence would have been tried a dozen times in as long.
        let clock = SystemClock::new();
        wait_for("the second try", || (bucket.log().len() > 1).then_some(()));
        assert!(clock.now() > Mono::from_millis(200), "{:?}", clock.now());
        assert!(task.counters.failures.load(Ordering::Relaxed) <= 2);
        assert!(bucket.log().iter().all(|a| a.status >= 401) && bucket.keys().is_empty());
    }
}

#[test]
fn a_server_that_lets_go_of_the_parts_gets_them_anew() {
    let (shelf, bucket) = (Shelf::new(), Bucket::s3());
    let id = shelf.clip(13 * MB);
    shelf.store.request_upload(id, "cli").expect("queued");
    bucket.hold(3);
    let _task = Task::start(&shelf, to_s3(bucket.port()));
    wait_for("the third part", || bucket.part_has_begun(3).then_some(()));
    bucket.expire_uploads();
    bucket.let_go();
    shelf.wait_until(id, UploadState::Done);
    assert_eq!(parts_put(&bucket.log()), [1, 2, 1, 2, 3]);
    assert_eq!(bucket.object(&format!("/clips/{}", key(id))).map(|o| o.len()), Some(13 * MB));
}

#[test]
fn a_clip_that_is_deleted_meanwhile_is_given_up_and_taken_back() {
    let (shelf, bucket) = (Shelf::new(), Bucket::s3());
    let id = shelf.clip(13 * MB);
    shelf.store.request_upload(id, "cli").expect("queued");
    bucket.hold(2);
    let _task = Task::start(&shelf, to_s3(bucket.port()));
    wait_for("the second part", || bucket.part_has_begun(2).then_some(()));
    // What nobody has confirmed goes last, but it goes.
    shelf.store.keep(Limits { min_free_bytes: u64::MAX, ..Limits::default() });
    let row = shelf.wait_until(id, UploadState::Failed);
    assert!(row.error.expect("a reason").contains("storage.min_free_mb"));
    bucket.let_go();
    wait_for("the server to let go of the parts", || (bucket.unfinished() == 0).then_some(()));
    assert!(bucket.keys().is_empty());
    let taken_back = |a: &&Asked| a.method == "DELETE" && a.status == 204 && a.path == format!("/clips/{}", key(id));
    assert_eq!(bucket.log().iter().filter(taken_back).count(), 1);
}

#[test]
fn a_file_that_is_not_what_was_recorded_is_not_sent() {
    let (shelf, bucket) = (Shelf::new(), Bucket::s3());
    let (rotten, good) = (shelf.clip(3_000), shelf.clip(3_000));
    let clip = shelf.dir.join(format!("clips/2026/11/22/gate/180000_{rotten}.mp4"));
    let mut bytes = std::fs::read(&clip).expect("there");
    bytes[1_500] ^= 1;
    std::fs::write(&clip, bytes).expect("writable");
    for id in [rotten, good] {
        shelf.store.request_upload(id, "cli").expect("queued");
    }
    let _task = Task::start(&shelf, to_s3(bucket.port()));
    shelf.wait_until(good, UploadState::Done);
    let row = shelf.wait_until(rotten, UploadState::Failed);
    assert!(row.error.expect("a reason").contains("not what was recorded"));
    assert_eq!(bucket.keys(), [format!("/clips/{}", key(good))]);
}

#[test]
fn a_server_that_falls_silent_is_left_and_found_again() {
    let (shelf, bucket) = (Shelf::new(), Bucket::s3());
    let id = shelf.clip(7 * MB);
    shelf.store.request_upload(id, "cli").expect("queued");
    bucket.hold(2);
    let pacing = Pacing { stalled_after: Duration::from_secs(2), ..QUICK };
    let _task = Task::start_with(&shelf, to_s3(bucket.port()), pacing);
    let error = wait_for("us to lose patience", || {
        let held = bucket.part_has_begun(2).then(|| shelf.row(id))?;
        held.and_then(|row| row.error).filter(|e| e.contains("part 2"))
    });
    assert!(error.contains("took nothing and said nothing"), "{error}");
    bucket.let_go();
    let row = shelf.wait_until(id, UploadState::Done);
    assert!(row.attempts > 1, "{row:?}");
    assert_eq!(bucket.object(&format!("/clips/{}", key(id))).map(|o| o.len()), Some(7 * MB));
}

#[test]
fn over_tls_only_to_who_the_authority_vouches_for() {
    let pki = Pki::new();
    let bucket = Bucket::web_over_tls(&pki);
    let url = format!("https://127.0.0.1:{}", bucket.port());
    let upload = |ca_pem| Upload { target: UploadTarget::Http { url: url.clone() }, ca_pem, ..to_web(0) };
    let shelf = Shelf::new();
    let id = shelf.clip(200_000);
    shelf.store.request_upload(id, "cli").expect("queued");
    for ca_pem in [None, Some(Pki::new().read("ca.crt"))] {
        let before = shelf.row(id).map_or(0, |row| row.attempts);
        let task = Task::start(&shelf, upload(ca_pem));
        let row = wait_for("a failure", || shelf.row(id).filter(|row| row.attempts > before && row.error.is_some()));
        let error = row.error.expect("one");
        assert!(error.contains("certificate"), "{error}");
        drop(task);
    }
    assert!(bucket.log().is_empty(), "not a byte of HTTP: {:?}", bucket.log());
    let _task = Task::start(&shelf, upload(Some(pki.read("ca.crt"))));
    shelf.wait_until(id, UploadState::Done);
    assert_eq!(bucket.keys().len(), 1);
}

/// moto's S3, which was not written here, where Python has it.
struct Moto(std::process::Child);

impl Drop for Moto {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
#[allow(clippy::print_stderr, reason = "a test that tests nothing must be seen")]
fn another_s3_takes_it_too() {
    use std::process::{Command, Stdio};

    let python =
        |args: &[&str]| Command::new("python3").args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !python(&["-c", "import moto.server, flask"]).is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no moto here (python3 -m pip install 'moto[server]'): only our own S3 is tested");
        return;
    }
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a free port").port();
    let server = Command::new("python3")
        .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("python3");
    let _server = Moto(server);
    let base = format!("http://127.0.0.1:{port}");
    let curl = |args: &[&str]| Command::new("curl").args(["-sSf", "--noproxy", "*"]).args(args).output().expect("curl");
    let put = ["-X", "PUT", &format!("{base}/clips")];
    wait_for("moto and its bucket", || curl(&put).status.success().then_some(()));
    let shelf = Shelf::new();
    let ids = [shelf.clip(13 * MB), shelf.clip(50_000)];
    for id in ids {
        shelf.store.request_upload(id, "cli").expect("queued");
    }
    let _task = Task::start(&shelf, to_s3(port));
    for id in ids {
        let row = shelf.wait_until(id, UploadState::Done);
        assert_eq!(row.attempts, 1, "{row:?}");
        let file = std::fs::read(shelf.dir.join(format!("clips/2026/11/22/gate/180000_{id}.mp4"))).expect("there");
        let get = "import boto3, sys\nsecret = dict(aws_access_key_id='a', aws_secret_access_key='b', region_name='us-east-1')\n\
                   s3 = boto3.client('s3', endpoint_url=sys.argv[1], **secret)\n\
                   sys.stdout.buffer.write(s3.get_object(Bucket='clips', Key=sys.argv[2])['Body'].read())";
        let there = Command::new("python3").args(["-c", get, &base, &key(id)]).output().expect("python3");
        assert!(there.stdout == file, "{} bytes came back: {}", there.stdout.len(), stderr(&there));
    }
}

#[test]
fn the_rate_is_kept() {
    let (shelf, bucket) = (Shelf::new(), Bucket::s3());
    let id = shelf.clip(3 * MB);
    shelf.store.request_upload(id, "cli").expect("queued");
    let _task = Task::start(&shelf, Upload { limit_bytes_per_s: Some(MB as u64), ..to_s3(bucket.port()) });
    shelf.wait_until(id, UploadState::Done);
    let log = bucket.log();
    let put = log.iter().find(|a| a.method == "PUT").expect("it was sent");
    let took = put.to.since(put.from).as_secs_f64();
    // Three seconds, less what the sockets hold; more only if this machine has other things to do.
    assert!((2.4..9.0).contains(&took), "3 MB at 1 MB/s took {took} s");
}

#[test]
fn outside_its_schedule_nothing_is_sent() {
    let (shelf, bucket) = (Shelf::new(), Bucket::s3());
    let id = shelf.clip(2_000);
    shelf.store.request_upload(id, "cli").expect("queued");
    let zone = jiff::tz::TimeZone::UTC;
    let today = jiff::Timestamp::now().to_zoned(zone.clone()).weekday().to_monday_zero_offset();
    let days = |offset: i8| std::array::from_fn(|day| day as i8 == (today + offset) % 7);
    let span = |offset| Span { days: days(offset), from: jiff::civil::time(0, 0, 0, 0), to: None };
    let schedule = |spans| Some(Schedule { name: "nights".into(), zone: zone.clone(), spans });
    let closed = Task::start(&shelf, Upload { schedule: schedule(vec![span(3)]), ..to_s3(bucket.port()) });
    let clock = SystemClock::new();
    // Twenty looks and more.
    wait_for("some time", || (clock.now() > Mono::from_millis(500)).then_some(()));
    drop(closed);
    assert!(bucket.log().is_empty(), "{:?}", bucket.log());
    assert_eq!(shelf.row(id).map(|row| (row.state, row.attempts)), Some((UploadState::Queued, 0)));
    // Today and tomorrow, lest it becomes midnight.
    let _open = Task::start(&shelf, Upload { schedule: schedule(vec![span(0), span(1)]), ..to_s3(bucket.port()) });
    shelf.wait_until(id, UploadState::Done);
}

/// The daemon's `[upload]`, and the secret beside it.
fn section(agent: &Agent, bucket: &Bucket, policy: &str) -> String {
    let secret = agent.config().with_file_name("upload.credentials");
    std::fs::write(&secret, format!("{ACCESS_KEY}\n{SECRET_KEY}\n")).expect("writable");
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("ours");
    format!(
        "[upload]\npolicy = \"{policy}\"\nurl = \"s3://clips/harbour\"\nendpoint = \"http://127.0.0.1:{}\"\n\
         credentials_file = \"upload.credentials\"\npart_mb = 6\n",
        bucket.port()
    )
}

#[test]
fn a_kill_in_mid_upload_costs_no_part_that_was_sent() {
    let bucket = Bucket::s3();
    let broker = Broker::plaintext().start();
    let mut alerts = broker.subscribe("vedette/#");
    let mut agent = Agent::with_pattern("");
    let mqtt = format!("[mqtt]\nurl = \"mqtt://127.0.0.1:{}\"\n", broker.port);
    agent.configure(crate::common::agent::PATTERN, &format!("{mqtt}{}", section(&agent, &bucket, "always")));
    let shelf = Shelf::of(&agent.state());
    let id = shelf.clip(27 * MB);
    shelf.close();
    bucket.hold(4);
    agent.restart();
    wait_for("the fourth part", || bucket.part_has_begun(4).then_some(()));
    agent.signal("KILL");
    agent.wait();
    bucket.let_go();
    agent.restart();
    let uploaded = alerts.wait_for("clip_uploaded", |m| m.payload["type"] == "org.vedette.alert.clip_uploaded.v1");
    let object = bucket.object(&format!("/clips/{}", key(id))).expect("it is there");
    let clip = &uploaded.payload["data"]["clip"];
    assert_eq!(clip["url"], format!("s3://clips/{}", key(id)));
    assert_eq!(clip["sha256"], digest::of_bytes(&object));
    assert_eq!(object.len(), 27 * MB);
    let parts = parts_put(&bucket.log());
    for part in 1..=3 {
        assert_eq!(parts.iter().filter(|n| **n == part).count(), 1, "part {part} was sent once: {parts:?}");
    }
    assert!(parts.ends_with(&[4, 5]), "{parts:?}");
    assert_eq!(bucket.log().iter().filter(|a| a.query.contains_key("uploads")).count(), 1, "one upload");
    assert_eq!(agent.status()["health"]["uploads"]["done"], 1);
}

#[test]
fn the_command_line_asks_the_daemon_for_a_clip() {
    let bucket = Bucket::s3();
    let mut agent = Agent::with_pattern("");
    let section = section(&agent, &bucket, "on_request");
    agent.configure(crate::common::agent::PATTERN, &format!("[clip]\npre_roll_s = 1\npost_roll_s = 1\n{section}"));
    agent.restart();
    let id = agent.raise_test();
    // It is taken while the clip is still to be made.
    let asked = agent.command(&["incidents", "upload", &id]);
    assert!(asked.status.success(), "{}{}", stdout(&asked), stderr(&asked));
    assert_eq!(agent.wait_for_clip(&id)["clip"]["state"], "done");
    let shown = wait_for("the upload", || {
        let shown: serde_json::Value =
            serde_json::from_slice(&agent.command(&["incidents", "show", &id]).stdout).expect("JSON");
        (shown["upload"]["state"] == "done").then_some(shown)
    });
    assert_eq!(shown["upload"]["requested_by"], "cli");
    assert_eq!(shown["upload"]["url"], shown["clip"]["url"]);
    let object = bucket.keys().iter().find(|k| k.contains(&id)).and_then(|k| bucket.object(k)).expect("it is there");
    assert_eq!(shown["clip"]["sha256"], digest::of_bytes(&object));
    let refused = agent.command(&["incidents", "upload", &Uuid::nil().to_string()]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("knows no incident"), "{}", stderr(&refused));
    assert!(stdout(&agent.command(&["status"])).contains("uploads     0 to send, 1 sent"));
}
