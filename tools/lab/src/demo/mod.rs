// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The main job, shown: a static partition of a SmartNIC against ours.
