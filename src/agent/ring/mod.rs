//! The last access units of one camera, bounded by bytes and by time, aware of keyframes. A pure data structure.
