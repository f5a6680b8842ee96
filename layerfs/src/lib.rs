//! layerfs
