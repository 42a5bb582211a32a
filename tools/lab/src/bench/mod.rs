// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Exact instruction counts of the firmware's paths.
