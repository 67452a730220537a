//! What changed between the running configuration and a new one, key by key, and whether the running daemon
//! can take it over (SIGHUP). Pure.
//!
//! Live are the thresholds, the schedules (shown at the cameras that go by them), `[incident]`, `[clip]` and `[storage]`,
//! as long as what they ask for agrees with what needs a restart; everything else needs one.

use std::fmt;

use serde::Serialize;

use super::camera::RING_BEYOND_PRE_ROLL;
use super::{
    Adapters, Camera, Clip, Config, Device, Http, Incident, Model, Mqtt, MqttTls, Paths, Source, Storage, Upload,
    UploadTarget, VideoWish,
};

/// When a change takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Applies {
    /// At once: see [`Config::with_live_from`].
    Live,
    /// When the daemon is started again.
    AtRestart,
}

/// One key whose value is another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// As in [`super::Problem::key`]; `camera[gate]` alone for a camera that came or went. For a camera's
    /// credentials their content counts.
    pub key: String,
    /// When it takes effect.
    pub applies: Applies,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        match self.applies {
            Applies::Live => f.write_str(": applied"),
            Applies::AtRestart => f.write_str(": needs a restart"),
        }
    }
}

impl Config {
    /// What is different in `new`. The order of cameras does not matter.
    pub fn diff(&self, new: &Config) -> Vec<Change> {
        // Taken apart by name, here and below, so that a field that is added cannot be forgotten.
        let Config {
            device,
            paths,
            model,
            cameras,
            incident,
            clip,
            storage,
            severity,
            mqtt,
            adapters,
            upload,
            http,
            metrics,
            tensorrt,
            ota,
        } = self;
        let mut changes = Changes::default();
        changes.of_device(device, &new.device);
        changes.of_paths(paths, &new.paths);
        changes.of_model(model, &new.model);
        for camera in cameras {
            match new.camera(camera) {
                Some(new) => changes.of_camera(camera, new),
                None => changes.at_restart(&format!("camera[{}]", camera.id), true),
            }
        }
        for camera in new.cameras.iter().filter(|c| self.camera(c).is_none()) {
            changes.at_restart(&format!("camera[{}]", camera.id), true);
        }
        changes.of_incident(incident, &new.incident, self.hysteresis_from(new));
        changes.of_clip(clip, &new.clip, self.pre_roll_from(new));
        changes.of_storage(storage, &new.storage);
        changes.at_restart("severity", *severity != new.severity);
        match (mqtt, &new.mqtt) {
            (Some(mqtt), Some(new)) => changes.of_mqtt(mqtt, new),
            (old, new) => changes.at_restart("mqtt", old != new),
        }
        match (upload, &new.upload) {
            (Some(upload), Some(new)) => changes.of_upload(upload, new),
            (old, new) => changes.at_restart("upload.policy", old != new),
        }
        changes.of_http(http, &new.http);
        changes.at_restart("metrics.listen", *metrics != new.metrics);
        changes.of_adapters(adapters, &new.adapters);
        changes.at_restart("tensorrt", *tensorrt != new.tensorrt);
        changes.at_restart("ota", *ota != new.ota);
        changes.0
    }

    /// This configuration with those values of `new` that can be taken over while the daemon runs: what the
    /// daemon works by from then on, and what the next new configuration is to be held against.
    pub fn with_live_from(&self, new: &Config) -> Config {
        let mut next = self.clone();
        next.incident = new.incident.clone();
        if self.hysteresis_from(new) == Applies::AtRestart {
            next.incident.hysteresis = self.incident.hysteresis;
        }
        next.clip = new.clip.clone();
        if self.pre_roll_from(new) == Applies::AtRestart {
            next.clip.pre_roll = self.clip.pre_roll;
        }
        next.storage = new.storage.clone();
        for camera in &mut next.cameras {
            if let Some(new) = new.camera(camera) {
                camera.thresholds = new.thresholds.clone();
                camera.schedule = new.schedule.clone();
            }
        }
        next
    }

    /// The camera here that has the same id.
    fn camera(&self, like: &Camera) -> Option<&Camera> {
        self.cameras.iter().find(|c| c.id == like.id)
    }

    /// The rings as they are must hold the new pre-roll: to grow one needs a restart.
    fn pre_roll_from(&self, new: &Config) -> Applies {
        let least = new.clip.pre_roll + RING_BEYOND_PRE_ROLL;
        if self.cameras.iter().all(|c| c.ring_time >= least) { Applies::Live } else { Applies::AtRestart }
    }

    /// A camera that is gone from `new` runs on with its thresholds until the restart, and they must stay above
    /// the hysteresis.
    fn hysteresis_from(&self, new: &Config) -> Applies {
        let mut gone = self.cameras.iter().filter(|c| new.camera(c).is_none());
        let fits = gone.all(|c| c.thresholds.values().all(|t| *t > new.incident.hysteresis));
        if fits { Applies::Live } else { Applies::AtRestart }
    }
}

#[derive(Default)]
struct Changes(Vec<Change>);

impl Changes {
    fn note(&mut self, key: &str, differs: bool, applies: Applies) {
        if differs {
            self.0.push(Change { key: key.to_string(), applies });
        }
    }

    fn live(&mut self, key: &str, differs: bool) {
        self.note(key, differs, Applies::Live);
    }

    fn at_restart(&mut self, key: &str, differs: bool) {
        self.note(key, differs, Applies::AtRestart);
    }

    fn of_device(&mut self, Device { site, id, place }: &Device, new: &Device) {
        self.at_restart("device.site", *site != new.site);
        self.at_restart("device.id", *id != new.id);
        self.at_restart("device.place", *place != new.place);
    }

    fn of_paths(&mut self, Paths { state_dir, runtime_dir }: &Paths, new: &Paths) {
        self.at_restart("paths.state_dir", *state_dir != new.state_dir);
        self.at_restart("paths.runtime_dir", *runtime_dir != new.runtime_dir);
    }

    fn of_model(&mut self, Model { dir, threads, precision, engine, stride, onnxruntime }: &Model, new: &Model) {
        self.at_restart("model.dir", *dir != new.dir);
        self.at_restart("model.threads", *threads != new.threads);
        self.at_restart("model.precision", *precision != new.precision);
        self.at_restart("model.engine", *engine != new.engine);
        self.at_restart("model.stride", *stride != new.stride);
        self.at_restart("model.onnxruntime", *onnxruntime != new.onnxruntime);
    }

    fn of_incident(&mut self, old: &Incident, new: &Incident, hysteresis_applies: Applies) {
        let Incident {
            smoothing,
            hysteresis,
            min_windows,
            close_after,
            cool_down,
            merge_within,
            max_length,
            update_every,
        } = old;
        self.live("incident.smoothing", *smoothing != new.smoothing);
        self.note("incident.hysteresis", *hysteresis != new.hysteresis, hysteresis_applies);
        self.live("incident.min_windows", *min_windows != new.min_windows);
        self.live("incident.close_after_s", *close_after != new.close_after);
        self.live("incident.cool_down_s", *cool_down != new.cool_down);
        self.live("incident.merge_within_s", *merge_within != new.merge_within);
        self.live("incident.max_length_s", *max_length != new.max_length);
        self.live("incident.update_every_s", *update_every != new.update_every);
    }

    fn of_clip(&mut self, Clip { pre_roll, post_roll }: &Clip, new: &Clip, pre_roll_applies: Applies) {
        self.note("clip.pre_roll_s", *pre_roll != new.pre_roll, pre_roll_applies);
        self.live("clip.post_roll_s", *post_roll != new.post_roll);
    }

    fn of_storage(&mut self, old: &Storage, new: &Storage) {
        let Storage { keep, clips_max_bytes, min_free_bytes, keep_incidents } = old;
        self.live("storage.keep_days", *keep != new.keep);
        self.live("storage.clips_max_mb", *clips_max_bytes != new.clips_max_bytes);
        self.live("storage.min_free_mb", *min_free_bytes != new.min_free_bytes);
        self.live("storage.keep_incidents_days", *keep_incidents != new.keep_incidents);
    }

    fn of_camera(&mut self, old: &Camera, new: &Camera) {
        let Camera {
            id,
            source,
            place,
            classify,
            schedule,
            region,
            masks,
            thresholds,
            ring_time,
            ring_max_bytes,
            encode_kbps,
            frozen_after,
        } = old;
        let key = |key: &str| format!("camera[{id}].{key}");
        self.of_source(&key, source, &new.source);
        self.at_restart(&key("place"), *place != new.place);
        self.at_restart(&key("classify"), *classify != new.classify);
        self.live(&key("schedule"), *schedule != new.schedule);
        self.at_restart(&key("region"), *region != new.region);
        self.at_restart(&key("masks"), *masks != new.masks);
        for class in thresholds.keys().chain(new.thresholds.keys().filter(|c| !thresholds.contains_key(*c))) {
            self.live(&key(&format!("thresholds.{class}")), thresholds.get(class) != new.thresholds.get(class));
        }
        self.at_restart(&key("ring_seconds"), *ring_time != new.ring_time);
        self.at_restart(&key("ring_max_mb"), *ring_max_bytes != new.ring_max_bytes);
        self.at_restart(&key("encode_kbps"), *encode_kbps != new.encode_kbps);
        self.at_restart(&key("frozen_after_s"), *frozen_after != new.frozen_after);
    }

    fn of_source(&mut self, key: &impl Fn(&str) -> String, old: &Source, new: &Source) {
        match (old, new) {
            (
                Source::File { path, pace, repeat },
                Source::File { path: new_path, pace: new_pace, repeat: new_repeat },
            ) => {
                self.at_restart(&key("path"), path != new_path);
                self.at_restart(&key("pace"), pace != new_pace);
                self.at_restart(&key("repeat"), repeat != new_repeat);
            }
            (
                Source::Rtsp { url, credentials, transport, latency },
                Source::Rtsp {
                    url: new_url,
                    credentials: new_credentials,
                    transport: new_transport,
                    latency: new_latency,
                },
            ) => {
                self.at_restart(&key("url"), url != new_url);
                self.at_restart(&key("credentials_file"), credentials != new_credentials);
                self.at_restart(&key("transport"), transport != new_transport);
                self.at_restart(&key("latency_ms"), latency != new_latency);
            }
            (
                Source::V4l2 { device, wish: VideoWish { width, height, fps, format }, controls },
                Source::V4l2 { device: new_device, wish: new, controls: new_controls },
            ) => {
                self.at_restart(&key("device"), device != new_device);
                self.at_restart(&key("width"), *width != new.width);
                self.at_restart(&key("height"), *height != new.height);
                self.at_restart(&key("fps"), *fps != new.fps);
                self.at_restart(&key("format"), *format != new.format);
                for name in controls.keys().chain(new_controls.keys().filter(|n| !controls.contains_key(*n))) {
                    self.at_restart(&key(&format!("controls.{name}")), controls.get(name) != new_controls.get(name));
                }
            }
            (
                Source::Csi { sensor_id, sensor_mode, width, height, fps },
                Source::Csi {
                    sensor_id: new_id,
                    sensor_mode: new_mode,
                    width: new_width,
                    height: new_height,
                    fps: new_fps,
                },
            ) => {
                self.at_restart(&key("sensor_id"), sensor_id != new_id);
                self.at_restart(&key("sensor_mode"), sensor_mode != new_mode);
                self.at_restart(&key("width"), width != new_width);
                self.at_restart(&key("height"), height != new_height);
                self.at_restart(&key("fps"), fps != new_fps);
            }
            (
                Source::Test { width, height, fps },
                Source::Test { width: new_width, height: new_height, fps: new_fps },
            ) => {
                self.at_restart(&key("width"), width != new_width);
                self.at_restart(&key("height"), height != new_height);
                self.at_restart(&key("fps"), fps != new_fps);
            }
            _ => self.at_restart(&key("kind"), true),
        }
    }

    fn of_adapters(&mut self, old: &Adapters, new: &Adapters) {
        let Adapters { onvif, home_assistant, frigate } = old;
        self.at_restart("adapters.onvif", *onvif != new.onvif);
        self.at_restart("adapters.home_assistant", *home_assistant != new.home_assistant);
        self.at_restart("adapters.frigate", *frigate != new.frigate);
    }

    fn of_mqtt(&mut self, old: &Mqtt, new: &Mqtt) {
        let Mqtt {
            brokers,
            tls,
            credentials_file,
            heartbeat_every,
            keep_alive,
            renew_at,
            consumers,
            keep,
            keep_bytes,
            thumbnails,
        } = old;
        self.at_restart("mqtt.url", *brokers != new.brokers || tls.is_some() != new.tls.is_some());
        // Where the files lie: what is in them is read again for each connection.
        if let (Some(MqttTls { ca_file, client, alpn }), Some(new)) = (tls, &new.tls) {
            self.at_restart("mqtt.ca_file", *ca_file != new.ca_file);
            let [old_cert, new_cert] = [client, &new.client].map(|c| c.as_ref().map(|files| &files.cert));
            let [old_key, new_key] = [client, &new.client].map(|c| c.as_ref().map(|files| &files.key));
            self.at_restart("mqtt.cert_file", old_cert != new_cert);
            self.at_restart("mqtt.key_file", old_key != new_key);
            self.at_restart("mqtt.alpn", *alpn != new.alpn);
        }
        self.at_restart("mqtt.credentials_file", *credentials_file != new.credentials_file);
        self.at_restart("mqtt.heartbeat_s", *heartbeat_every != new.heartbeat_every);
        self.at_restart("mqtt.renew_at", *renew_at != new.renew_at);
        self.at_restart("mqtt.keep_alive_s", *keep_alive != new.keep_alive);
        self.at_restart("mqtt.consumers", *consumers != new.consumers);
        self.at_restart("mqtt.keep_days", *keep != new.keep);
        self.at_restart("mqtt.keep_mb", *keep_bytes != new.keep_bytes);
        self.at_restart("mqtt.thumbnails", *thumbnails != new.thumbnails);
    }

    fn of_upload(&mut self, old: &Upload, new: &Upload) {
        let Upload { policy, target, ca_pem, credentials, limit_bytes_per_s, schedule, part_bytes } = old;
        self.at_restart("upload.policy", *policy != new.policy);
        match (target, &new.target) {
            (
                UploadTarget::S3 { bucket, prefix, endpoint, region },
                UploadTarget::S3 { bucket: b, prefix: p, endpoint: e, region: r },
            ) => {
                self.at_restart("upload.url", (bucket, prefix) != (b, p));
                self.at_restart("upload.endpoint", endpoint != e);
                self.at_restart("upload.region", region != r);
            }
            (old, new) => self.at_restart("upload.url", old != new),
        }
        self.at_restart("upload.ca_file", *ca_pem != new.ca_pem);
        self.at_restart("upload.credentials_file", *credentials != new.credentials);
        self.at_restart("upload.limit_kbps", *limit_bytes_per_s != new.limit_bytes_per_s);
        self.at_restart("upload.schedule", *schedule != new.schedule);
        self.at_restart("upload.part_mb", *part_bytes != new.part_bytes);
    }

    fn of_http(&mut self, old: &Http, new: &Http) {
        let Http { listen, certificate, public_url, link_valid, links_in_alerts } = old;
        self.at_restart("http.listen", *listen != new.listen);
        let [old_cert, new_cert] = [certificate, &new.certificate].map(|c| c.as_ref().map(|(cert, _)| cert));
        let [old_key, new_key] = [certificate, &new.certificate].map(|c| c.as_ref().map(|(_, key)| key));
        self.at_restart("http.cert_file", old_cert != new_cert);
        self.at_restart("http.key_file", old_key != new_key);
        self.at_restart("http.public_url", *public_url != new.public_url);
        self.at_restart("http.link_valid_s", *link_valid != new.link_valid);
        self.at_restart("http.links_in_alerts", *links_in_alerts != new.links_in_alerts);
    }
}
