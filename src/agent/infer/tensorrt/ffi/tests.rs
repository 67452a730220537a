use super::*;

#[test]
fn a_library_that_is_none_is_refused_by_its_name() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("libnvinfer.so.10");
    std::fs::write(&path, "not an ELF file").expect("writable");
    for e in [library_version(&path).err(), Shim::open(&path).err()] {
        let e = e.expect("it is none");
        assert!(e.kind == Kind::Library && e.message.contains("libnvinfer.so.10"), "{e:?}");
    }
}

#[test]
fn a_shim_without_the_interface_is_refused() {
    // Every machine that runs the agent has it.
    let e = Shim::open(Path::new("libm.so.6")).err().expect("it is no shim");
    assert!(e.message.contains("vt_abi"), "{e}");
    let e = library_version(Path::new("libm.so.6")).expect_err("nor is it TensorRT");
    assert_eq!(e.kind, Kind::Symbol, "{e}");
}
