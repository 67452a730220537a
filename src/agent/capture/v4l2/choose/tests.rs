use proptest::prelude::*;

use super::*;

fn mode(format: &[u8; 4], width: u32, height: u32, fps: u32) -> Mode {
    Mode { format: FourCc(*format), width, height, rate: Some(Rate { frames: fps, seconds: 1 }) }
}

fn taken(modes: &[Mode], wish: &VideoWish) -> String {
    choose(modes, wish, Some(8.0)).map_or_else(|e| format!("no: {e}"), |c| c.to_string())
}

const NO_WISH: VideoWish = VideoWish { width: None, height: None, fps: None, format: None };

/// What a common USB camera of some years offers.
fn c920() -> Vec<Mode> {
    let mut modes = Vec::new();
    for fps in [5, 10, 15, 20, 24, 30] {
        for (w, h) in [(640, 360), (640, 480), (1280, 720), (1920, 1080)] {
            modes.push(mode(b"MJPG", w, h, fps));
        }
        modes.push(mode(b"YUYV", 640, 480, fps));
    }
    modes.extend([mode(b"YUYV", 1280, 720, 10), mode(b"YUYV", 1920, 1080, 5)]);
    modes
}

#[test]
fn an_encoded_stream_then_jpeg_then_raw() {
    let jpeg_and_raw = c920();
    assert_eq!(taken(&jpeg_and_raw, &NO_WISH), "MJPEG 1280x720 at 15 fps");
    let mut with_h264 = jpeg_and_raw.clone();
    with_h264.extend([mode(b"H264", 1920, 1080, 30), mode(b"HEVC", 1920, 1080, 15), mode(b"H264", 640, 480, 15)]);
    assert_eq!(taken(&with_h264, &NO_WISH), "H.264 1920x1080 at 30 fps");
    let raw: Vec<Mode> = jpeg_and_raw.into_iter().filter(|m| m.format == FourCc(*b"YUYV")).collect();
    assert_eq!(taken(&raw, &NO_WISH), "raw YUY2 1280x720 at 10 fps");
    let mut planar = raw;
    planar.push(mode(b"NV12", 640, 480, 30));
    assert_eq!(taken(&planar, &NO_WISH), "raw NV12 640x480 at 30 fps", "what needs no conversion");
}

#[test]
fn too_small_and_too_slow_lose_against_a_worse_format() {
    assert_eq!(
        taken(&[mode(b"H264", 320, 240, 30), mode(b"MJPG", 1280, 720, 30)], &NO_WISH),
        "MJPEG 1280x720 at 30 fps"
    );
    assert_eq!(
        taken(&[mode(b"H264", 1920, 1080, 5), mode(b"MJPG", 640, 480, 30)], &NO_WISH),
        "MJPEG 640x480 at 30 fps"
    );
    assert_eq!(taken(&[mode(b"MJPG", 640, 480, 5)], &NO_WISH), "MJPEG 640x480 at 5 fps, slower than the model looks");
    let recorded_only = choose(&[mode(b"MJPG", 640, 480, 5)], &NO_WISH, None).expect("one");
    assert!(!recorded_only.slow, "no model looks");
}

#[test]
fn what_software_cannot_keep_up_with_is_taken_only_when_asked_for() {
    let only_4k = [mode(b"MJPG", 3840, 2160, 30)];
    assert!(taken(&only_4k, &NO_WISH).contains("set width and height"), "{}", taken(&only_4k, &NO_WISH));
    let wish = VideoWish { width: Some(3840), ..NO_WISH };
    assert!(taken(&only_4k, &wish).contains("more than software"));
    assert_eq!(
        taken(&[mode(b"H264", 3840, 2160, 30), mode(b"H264", 3840, 2160, 15)], &wish),
        "H.264 3840x2160 at 15 fps"
    );
    assert_eq!(taken(&[mode(b"H264", 3840, 2160, 15)], &NO_WISH), "H.264 3840x2160 at 15 fps");
}

#[test]
fn a_wish_is_met_or_refused_with_what_there_is() {
    let modes = c920();
    let wish = |format, width, height, fps| VideoWish { format, width, height, fps };
    assert_eq!(taken(&modes, &wish(Some(VideoFormat::Raw), None, None, None)), "raw YUY2 1280x720 at 10 fps");
    assert_eq!(taken(&modes, &wish(None, Some(640), None, None)), "MJPEG 640x360 at 15 fps", "of usual proportions");
    assert_eq!(taken(&modes, &wish(None, None, Some(1080), Some(30))), "MJPEG 1920x1080 at 30 fps");
    assert_eq!(
        taken(&[mode(b"MJPG", 640, 480, 30)], &wish(None, None, None, Some(15))),
        "no: the camera doesn't offer fps = 15; it offers MJPG 640x480 (30 fps)"
    );
    let h264 = taken(&modes, &wish(Some(VideoFormat::H264), Some(1280), None, None));
    assert!(h264.starts_with("no: the camera doesn't offer format = \"h264\", width = 1280; it offers MJPG 1920x1080 (30, 24, 20, 15, 10, 5 fps), 1280x720 ("), "{h264}");
    let ntsc = Mode { rate: Some(Rate { frames: 30_000, seconds: 1001 }), ..mode(b"MJPG", 640, 480, 1) };
    assert_eq!(taken(&[ntsc], &wish(None, None, None, Some(30))), "MJPEG 640x480 at 29.97 fps");
    let silent = Mode { rate: None, ..ntsc };
    assert_eq!(taken(&[silent], &NO_WISH), "MJPEG 640x480");
    assert_eq!(taken(&[silent], &wish(None, None, None, Some(20))), "MJPEG 640x480 at 20 fps");
}

#[test]
fn what_is_said_of_a_device_that_offers_everything_stays_short() {
    let many: Vec<Mode> = (0..100u8)
        .flat_map(|i| (1..9).map(move |n| mode(&[b'A', b'0', b'0' + i / 10, b'0' + i % 10], n * 160, n * 90, 30)))
        .collect();
    let said = offered(&[many, vec![mode(b"MJPG", 640, 480, 30)]].concat());
    assert!(said.starts_with("MJPG 640x480 (30 fps); A000 1280x720"), "what can be read comes first: {said}");
    assert!(said.ends_with(" more formats (`v4l2-ctl --list-formats-ext`)") && said.len() < 2 * OFFERED_MOST, "{said}");
}

#[test]
fn what_nobody_reads_is_not_taken() {
    assert_eq!(
        taken(&[mode(b"RG10", 640, 480, 30)], &NO_WISH),
        "no: nothing that the camera offers can be read: RG10 640x480 (30 fps)"
    );
    assert_eq!(taken(&[], &NO_WISH), "no: nothing that the camera offers can be read: nothing");
}

fn any_mode() -> impl Strategy<Value = Mode> {
    let formats = prop::sample::select(vec![*b"H264", *b"HEVC", *b"MJPG", *b"NV12", *b"YUYV", *b"RG10"]);
    let rate = prop::option::of((1u32..=120, 1u32..=4).prop_map(|(frames, seconds)| Rate { frames, seconds }));
    let side = prop::sample::select(vec![120u32, 360, 480, 640, 720, 1080, 1920, 2160, 3840]);
    (formats, side.clone(), side, rate).prop_map(|(f, width, height, rate)| Mode {
        format: FourCc(f),
        width,
        height,
        rate,
    })
}

fn any_wish() -> impl Strategy<Value = VideoWish> {
    let format = prop::sample::select(VideoFormat::ALL.map(|(_, f)| f).to_vec());
    let side = || prop::option::weighted(0.3, prop::sample::select(vec![360u32, 640, 1080, 1920]));
    (side(), side(), prop::option::weighted(0.3, 1u32..=60), prop::option::weighted(0.3, format))
        .prop_map(|(width, height, fps, format)| VideoWish { width, height, fps, format })
}

proptest! {
    /// What is taken is offered, can be read, and is what was wished; and if nothing is taken, nothing could be.
    #[test]
    fn the_choice_is_offered_and_wished(modes in prop::collection::vec(any_mode(), 0..40), wish in any_wish(), model in prop::option::of(1f32..30.0)) {
        let sized = wish.width.is_some() || wish.height.is_some();
        let fits = |m: &&Mode| Coding::of(m.format).is_some_and(|c| meets(c, m, &wish));
        match choose(&modes, &wish, model) {
            Ok(choice) => {
                let like = modes.iter().filter(fits).any(|m| Mode { rate: m.rate.or(choice.mode.rate), ..*m } == choice.mode);
                prop_assert!(like, "{:?} of {:?}", choice, modes);
                prop_assert!(sized || !choice.heavy);
            }
            Err(NoMode::TooLarge { .. }) => {
                let judged = modes.iter().filter(fits).map(|m| judge(Coding::of(m.format).expect("read"), *m, &wish, model));
                prop_assert!(!sized && judged.clone().count() > 0 && judged.into_iter().all(|c| c.heavy));
            }
            Err(NoMode::Wish { .. }) => prop_assert_eq!(modes.iter().filter(fits).count(), 0),
            Err(NoMode::Unreadable { .. }) => prop_assert!(modes.iter().all(|m| Coding::of(m.format).is_none())),
        }
    }

    /// The order in which a driver lists its modes doesn't matter, and a mode more never makes the choice worse.
    #[test]
    fn the_choice_is_the_best(mut modes in prop::collection::vec(any_mode(), 1..30), wish in any_wish(), more in any_mode()) {
        let of = |modes: &[Mode]| choose(modes, &wish, Some(8.0)).ok();
        let before = of(&modes);
        modes.reverse();
        prop_assert_eq!(of(&modes), before);
        modes.push(more);
        if let (Some(before), Some(after)) = (before, of(&modes)) {
            prop_assert!(after == before || (after.mode.format, after.mode.width, after.mode.height) == (more.format, more.width, more.height));
            prop_assert!(before.slow || !after.slow);
            prop_assert!(before.heavy || !after.heavy);
        }
    }
}
