//! What a model release may be made for: the processor's architecture, and the Jetson's module by its device tree.
//!
//! Names of modules are those of the kernel's device trees (`arch/arm64/boot/dts/nvidia`, NVIDIA's Linux for Tegra); not
//! read on a Jetson.

use std::path::Path;

/// Module, by the number that the device tree's `compatible` has for it.
const MODULES: [(&str, &str); 11] = [
    ("p3767-0000", "jetson-orin-nx"),
    ("p3767-0001", "jetson-orin-nx"),
    ("p3767-0003", "jetson-orin-nano"),
    ("p3767-0004", "jetson-orin-nano"),
    ("p3767-0005", "jetson-orin-nano"),
    ("p3701", "jetson-agx-orin"),
    ("p3668", "jetson-xavier-nx"),
    ("p2888", "jetson-agx-xavier"),
    ("p3834", "jetson-thor"),
    ("p3448", "jetson-nano"),
    ("p3310", "jetson-tx2"),
];

/// Classes of the machine whose device tree is below `root`, the architecture first.
pub fn hardware_classes(root: &Path) -> Vec<String> {
    let mut classes = vec![std::env::consts::ARCH.to_owned()];
    let compatible = std::fs::read(root.join("proc/device-tree/compatible")).unwrap_or_default();
    let compatible = String::from_utf8_lossy(&compatible);
    for (number, name) in MODULES {
        if compatible.contains(number) && !classes.iter().any(|c| c == name) {
            classes.push(name.to_owned());
        }
    }
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_known_by_its_device_tree_and_a_pc_has_none() {
        let root = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(hardware_classes(root.path()), [std::env::consts::ARCH]);
        std::fs::create_dir_all(root.path().join("proc/device-tree")).expect("writable");
        let compatible = b"nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0";
        std::fs::write(root.path().join("proc/device-tree/compatible"), compatible).expect("writable");
        assert_eq!(hardware_classes(root.path()), [std::env::consts::ARCH, "jetson-orin-nano"]);
    }
}
