//! Machines as their kernels show them: the sensors read directories of the layout of an Orin, a Xavier and a PC. Names
//! and files are those of the machines (kernel sources and NVIDIA's manuals); the values are made up. Not run on a
//! Jetson.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Readings, Sensors};
use crate::base::clock::Wall;
use crate::contract::heartbeat::{CoolingLevel, ProcessorClock, Reserve};

/// Readings of a machine with these files, paths below the root.
fn machine(files: &[(&str, &str)]) -> Readings {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{text}\n")).unwrap();
    }
    Sensors::under(root.path(), Path::new("/")).read(Wall::from_unix_ms(0))
}

fn rails(power_w: &BTreeMap<String, f32>) -> Vec<(&str, f32)> {
    power_w.iter().map(|(rail, watts)| (rail.as_str(), *watts)).collect()
}

const ORIN: &[(&str, &str)] = &[
    ("proc/self/status", "Name:\tvedette\nVmHWM:\t  70000 kB\nVmRSS:\t   51234 kB"),
    ("proc/meminfo", "MemTotal:       15823000 kB\nMemFree:         201000 kB\nMemAvailable:    9000000 kB"),
    ("proc/pressure/cpu", "some avg10=4.00 avg60=12.50 avg300=3.00 total=9"),
    (
        "proc/pressure/memory",
        "some avg10=0.00 avg60=0.25 avg300=0.00 total=9\nfull avg10=0.00 avg60=0.10 avg300=0.00 total=3",
    ),
    ("sys/class/thermal/thermal_zone0/type", "cpu-thermal"),
    ("sys/class/thermal/thermal_zone0/temp", "97500"),
    ("sys/class/thermal/thermal_zone1/type", "gpu-thermal"),
    ("sys/class/thermal/thermal_zone1/temp", "96031"),
    // Switched off: its `temp` cannot be read.
    ("sys/class/thermal/thermal_zone2/type", "cv0-thermal"),
    ("sys/class/thermal/thermal_zone10/type", "tj-thermal"),
    ("sys/class/thermal/thermal_zone10/temp", "-4500"),
    ("sys/class/thermal/cooling_device0/type", "cpufreq-cpu0"),
    ("sys/class/thermal/cooling_device0/cur_state", "0"),
    ("sys/class/thermal/cooling_device0/max_state", "28"),
    ("sys/class/thermal/cooling_device3/type", "devfreq-17000000.gpu"),
    ("sys/class/thermal/cooling_device3/cur_state", "4"),
    ("sys/class/thermal/cooling_device3/max_state", "10"),
    ("sys/class/thermal/cooling_device5/type", "cpu-throttle-alert"),
    ("sys/class/thermal/cooling_device5/cur_state", "1"),
    ("sys/class/thermal/cooling_device5/max_state", "1"),
    ("sys/class/thermal/cooling_device6/type", "pwm-fan"),
    ("sys/class/thermal/cooling_device6/cur_state", "3"),
    ("sys/class/thermal/cooling_device6/max_state", "3"),
    ("sys/class/thermal/cooling_device9/type", "hot-surface-alert"),
    ("sys/class/thermal/cooling_device9/cur_state", "1"),
    ("sys/class/thermal/cooling_device9/max_state", "1"),
    ("sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "1190400"),
    ("sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq", "1984000"),
    ("sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq", "1984000"),
    ("sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq", "729600"),
    ("sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq", "1190400"),
    ("sys/devices/system/cpu/cpufreq/policy4/cpuinfo_max_freq", "1984000"),
    ("sys/class/devfreq/17000000.gpu/cur_freq", "306000000"),
    ("sys/class/devfreq/17000000.gpu/max_freq", "612000000"),
    ("sys/class/devfreq/17000000.gpu/available_frequencies", "306000000 408000000 510000000 612000000 918000000"),
    ("sys/class/devfreq/15480000.nvdec/cur_freq", "1"),
    // Of an Orin NX or Nano. The voltages at its shunts (in4 to in6) and the sums (in7, curr4) are no rails.
    ("sys/class/hwmon/hwmon1/name", "ina3221"),
    ("sys/class/hwmon/hwmon1/in1_label", "VDD_IN"),
    ("sys/class/hwmon/hwmon1/in1_input", "5072"),
    ("sys/class/hwmon/hwmon1/curr1_input", "1312"),
    ("sys/class/hwmon/hwmon1/in2_label", "VDD_CPU_GPU_CV"),
    ("sys/class/hwmon/hwmon1/in2_input", "5064"),
    ("sys/class/hwmon/hwmon1/curr2_input", "280"),
    ("sys/class/hwmon/hwmon1/in3_label", "VDD_SOC"),
    ("sys/class/hwmon/hwmon1/in3_input", "5064"),
    ("sys/class/hwmon/hwmon1/curr3_input", "-8"),
    ("sys/class/hwmon/hwmon1/in4_input", "6560"),
    ("sys/class/hwmon/hwmon1/in7_label", "sum of shunt voltages"),
    ("sys/class/hwmon/hwmon1/in7_input", "7960"),
    ("sys/class/hwmon/hwmon1/curr4_input", "1584"),
    ("var/lib/nvpmodel/status", "pmode:0002 fmode:fanNull"),
    (
        "etc/nvpmodel.conf",
        "# < POWER_MODEL ID=2 NAME=OLD >\n< PARAM TYPE=FILE NAME=CPU_ONLINE >\n\n< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n\n\
         < POWER_MODEL ID=2 NAME=15W >\nCPU_ONLINE CORE_0 1\n\n< PM_CONFIG DEFAULT=0 >",
    ),
    ("sys/class/hwmon/hwmon3/name", "soctherm_oc"),
    ("sys/class/hwmon/hwmon3/oc1_event_cnt", "0"),
    ("sys/class/hwmon/hwmon3/oc2_event_cnt", "15"),
    ("sys/class/hwmon/hwmon3/oc3_event_cnt", "37"),
    ("sys/class/hwmon/hwmon3/oc3_throt_en", "1"),
    // The Orin Nano has no eMMC; its SD card has none of the registers.
    ("sys/block/mmcblk1/device/type", "SD"),
    ("sys/block/nvme0n1/device/model", "a disk"),
];

#[test]
fn an_orin_that_is_too_hot() {
    let r = machine(ORIN);
    let memory = r.memory.unwrap();
    assert_eq!(memory.resident_bytes, 51_234 * 1024);
    assert_eq!((memory.available_bytes, memory.total_bytes), (Some(9_000_000 * 1024), Some(15_823_000 * 1024)));
    assert_eq!((r.stalls["cpu"].some_percent, r.stalls["cpu"].all_percent), (12.5, None));
    assert_eq!((r.stalls["memory"].some_percent, r.stalls["memory"].all_percent), (0.25, Some(0.1)));
    let zones: Vec<_> = r.temperatures_c.iter().map(|(zone, t)| (zone.as_str(), *t)).collect();
    assert_eq!(zones, [("cpu-thermal", 97.5), ("gpu-thermal", 96.031), ("tj-thermal", -4.5)]);
    let throttling = r.throttling.unwrap();
    assert!(throttling.active);
    let in_force: Vec<_> = throttling.cooling.iter().map(|(kind, level)| (kind.as_str(), *level)).collect();
    let (alert, gpu) = (CoolingLevel { level: 1, most: 1 }, CoolingLevel { level: 4, most: 10 });
    assert_eq!(in_force, [("cpu-throttle-alert", alert), ("devfreq-17000000.gpu", gpu)], "no fan among them");
    let cpu = ProcessorClock { now_mhz: 729, limit_mhz: 1190, rated_mhz: 1984 };
    assert_eq!(throttling.clocks["cpu"], cpu, "the cluster that is held back");
    assert_eq!(throttling.clocks["gpu"], ProcessorClock { now_mhz: 306, limit_mhz: 612, rated_mhz: 918 });
    assert_eq!(throttling.over_current_events, Some(52));
    assert!(r.wear.is_empty());
    assert_eq!(rails(&r.power_w), [("VDD_CPU_GPU_CV", 1.417), ("VDD_IN", 6.654), ("VDD_SOC", -0.04)]);
    assert_eq!(r.power_mode.as_deref(), Some("15W"));
}

#[test]
fn a_xavier_at_its_ease_with_a_worn_emmc() {
    let r = machine(&[
        ("sys/class/thermal/thermal_zone0/type", "CPU-therm"),
        ("sys/class/thermal/thermal_zone0/temp", "41500"),
        ("sys/class/thermal/thermal_zone3/type", "AO-therm"),
        ("sys/class/thermal/thermal_zone3/temp", "40000"),
        ("sys/class/thermal/thermal_zone5/type", "PMIC-Die"),
        ("sys/class/thermal/thermal_zone5/temp", "100000"),
        ("sys/class/thermal/cooling_device0/type", "CPU-balanced"),
        ("sys/class/thermal/cooling_device0/cur_state", "0"),
        ("sys/class/thermal/cooling_device0/max_state", "5"),
        ("sys/class/thermal/cooling_device1/type", "pwm-fan"),
        ("sys/class/thermal/cooling_device1/cur_state", "2"),
        ("sys/class/thermal/cooling_device1/max_state", "9"),
        ("sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "1190400"),
        ("sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq", "1420800"),
        ("sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq", "1907200"),
        ("sys/class/devfreq/17000000.gv11b/cur_freq", "114750000"),
        ("sys/class/devfreq/17000000.gv11b/max_freq", "1109250000"),
        ("sys/class/devfreq/17000000.gv11b/available_frequencies", "114750000 1109250000"),
        ("sys/block/mmcblk0/device/life_time", "0x02 0x09"),
        ("sys/block/mmcblk0/device/pre_eol_info", "0x02"),
        // Two chips; a channel that is not connected, one that is switched off, one that is broken.
        ("sys/class/hwmon/hwmon2/name", "ina3221"),
        ("sys/class/hwmon/hwmon2/in1_label", "GPU"),
        ("sys/class/hwmon/hwmon2/in1_input", "19104"),
        ("sys/class/hwmon/hwmon2/curr1_input", "48"),
        ("sys/class/hwmon/hwmon2/in2_label", "CPU"),
        ("sys/class/hwmon/hwmon2/curr2_input", "24"),
        ("sys/class/hwmon/hwmon2/in3_label", "SOC"),
        ("sys/class/hwmon/hwmon2/in3_input", "19096"),
        ("sys/class/hwmon/hwmon2/curr3_input", "9999999999999999"),
        ("sys/class/hwmon/hwmon3/name", "ina3221"),
        ("sys/class/hwmon/hwmon3/in1_label", "CV"),
        ("sys/class/hwmon/hwmon3/in1_input", "19096"),
        ("sys/class/hwmon/hwmon3/curr1_input", "0"),
        ("sys/class/hwmon/hwmon3/in2_label", "NC"),
        ("sys/class/hwmon/hwmon3/in2_input", "19096"),
        ("sys/class/hwmon/hwmon3/curr2_input", "8"),
        ("var/lib/nvpmodel/status", "pmode:0007"),
    ]);
    assert_eq!(r.temperatures_c["AO-therm"], 40.0);
    let throttling = r.throttling.unwrap();
    assert!(!throttling.active, "a power mode's limit and a fan are no throttling: {throttling:?}");
    assert_eq!(throttling.clocks["cpu"], ProcessorClock { now_mhz: 1190, limit_mhz: 1420, rated_mhz: 1907 });
    assert_eq!(throttling.clocks["gpu"].rated_mhz, 1109);
    assert_eq!(throttling.over_current_events, None);
    let wear = r.wear["mmcblk0"];
    assert_eq!(
        (wear.life_used_percent, wear.reserve),
        (Some(90), Some(Reserve::Warning)),
        "the worse of its two kinds"
    );
    assert_eq!(r.memory, None);
    assert_eq!(rails(&r.power_w), [("CV", 0.0), ("GPU", 0.916)]);
    assert_eq!(r.power_mode.as_deref(), Some("mode 7"), "nothing names it");
}

#[test]
fn a_thor_and_what_its_carrier_board_measures() {
    let r = machine(&[
        ("sys/class/hwmon/hwmon0/name", "pwmfan"),
        ("sys/class/hwmon/hwmon4/name", "ina3221"),
        ("sys/class/hwmon/hwmon4/in1_label", "VDD_GPU"),
        ("sys/class/hwmon/hwmon4/in1_input", "12040"),
        ("sys/class/hwmon/hwmon4/curr1_input", "640"),
        ("sys/class/hwmon/hwmon4/in2_label", "VDD_CPU_SOC_MSS"),
        ("sys/class/hwmon/hwmon4/in2_input", "12040"),
        ("sys/class/hwmon/hwmon4/curr2_input", "960"),
        // One rail a chip, and no label; in0 is at the shunt.
        ("sys/class/hwmon/hwmon5/name", "ina238"),
        ("sys/class/hwmon/hwmon5/in0_input", "1"),
        ("sys/class/hwmon/hwmon5/in1_input", "19000"),
        ("sys/class/hwmon/hwmon5/curr1_input", "1210"),
        ("sys/class/hwmon/hwmon5/power1_input", "22968750"),
        ("sys/class/hwmon/hwmon6/name", "ina238"),
        ("sys/class/hwmon/hwmon6/power1_input", "1500000"),
        // As the device tree names it (Linux 5.18 and later).
        ("sys/class/hwmon/hwmon7/name", "ina226"),
        ("sys/class/hwmon/hwmon7/label", "camera mast"),
        ("sys/class/hwmon/hwmon7/power1_input", "4200000"),
    ]);
    let expected = [
        ("VDD_CPU_SOC_MSS", 11.558),
        ("VDD_GPU", 7.705),
        ("camera mast", 4.2),
        ("ina238", 22.968),
        ("ina238 hwmon6-1", 1.5),
    ];
    assert_eq!(rails(&r.power_w), expected);
    assert_eq!(r.power_mode, None);
}

#[test]
fn a_pc_under_load() {
    let r = machine(&[
        ("sys/class/thermal/thermal_zone0/type", "acpitz"),
        ("sys/class/thermal/thermal_zone0/temp", "27800"),
        ("sys/class/thermal/thermal_zone1/type", "acpitz"),
        ("sys/class/thermal/thermal_zone1/temp", "29800"),
        ("sys/class/thermal/thermal_zone2/type", "x86_pkg_temp"),
        ("sys/class/thermal/thermal_zone2/temp", "88000"),
        ("sys/class/thermal/cooling_device0/type", "Processor"),
        ("sys/class/thermal/cooling_device0/cur_state", "1"),
        ("sys/class/thermal/cooling_device0/max_state", "10"),
        ("sys/class/thermal/cooling_device1/type", "Processor"),
        ("sys/class/thermal/cooling_device1/cur_state", "3"),
        ("sys/class/thermal/cooling_device1/max_state", "10"),
        ("sys/class/thermal/cooling_device2/type", "intel_powerclamp"),
        ("sys/class/thermal/cooling_device2/cur_state", "-1"),
        ("sys/class/thermal/cooling_device2/max_state", "100"),
        ("sys/class/thermal/cooling_device3/type", "TCC Offset"),
        ("sys/class/thermal/cooling_device3/cur_state", "5"),
        ("sys/class/thermal/cooling_device3/max_state", "63"),
    ]);
    let zones: Vec<_> = r.temperatures_c.iter().map(|(zone, t)| (zone.as_str(), *t)).collect();
    assert_eq!(zones, [("acpitz", 27.8), ("acpitz 1", 29.8), ("x86_pkg_temp", 88.0)], "two of a kind are two");
    let throttling = r.throttling.unwrap();
    let in_force: Vec<_> = throttling.cooling.into_iter().collect();
    assert_eq!(in_force, [("Processor".to_owned(), CoolingLevel { level: 3, most: 10 })]);
    assert!(throttling.active && throttling.clocks.is_empty());
}
