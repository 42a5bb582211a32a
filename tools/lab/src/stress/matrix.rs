// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which scene runs on which machine, in which order, and for how long.

use std::fmt;
use std::time::Duration;

use super::Scene;
use crate::kernel::Kernel;
use crate::machine::{Cores, Machine};

/// QEMU's models of cores; the first is the lab's own.
pub const CPUS: [&str; 5] = [
    "cortex-a76",
    "neoverse-v1",
    "max",
    "cortex-a72",
    "neoverse-n1",
];

/// Numbers of cores and vCPUs; the last is eight vCPUs behind two CP cores.
pub const SHAPES: [Shape; 3] = [
    Shape::new(4, 3, 3),
    Shape::new(2, 1, 2),
    Shape::new(6, 2, 8),
];

/// How many CPUs of which kind a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Real cores.
    pub cores: u32,
    /// The first DP core; all above are DP cores too.
    pub dp: u32,
    /// vCPUs.
    pub vcpus: u32,
}

impl Shape {
    const fn new(cores: u32, dp: u32, vcpus: u32) -> Self {
        Self { cores, dp, vcpus }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} + {}", self.cores, self.vcpus)
    }
}

/// A row of the matrix: a scene on a machine.
#[derive(Clone)]
pub struct Row {
    /// What runs.
    pub scene: &'static dyn Scene,
    /// The kernel below it.
    pub kernel: Kernel,
    /// QEMU's model of the cores.
    pub cpu: &'static str,
    /// Cores and vCPUs.
    pub shape: Shape,
    /// The pass it belongs to, and the seed of its choices.
    pub seed: u64,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scene, kernel) = (self.scene.name(), &self.kernel);
        write!(f, "{scene} on {kernel}, {}, {}", self.cpu, self.shape)
    }
}

impl Row {
    /// Its machine, in real time.
    pub fn machine(&self) -> Machine {
        Machine {
            kernel: self.kernel.clone(),
            cpu: self.cpu.to_owned(),
            cores: self.shape.cores,
            dp: Cores::range(self.shape.dp, self.shape.cores - 1),
            vcpus: self.shape.vcpus,
            ..Machine::default()
        }
    }
}

/// The rows of one pass: every scene under every one of its kernels, and first
/// every scene once. Models and shapes change from row to row and from one seed to
/// the next, so that fifteen passes are the whole matrix.
pub fn pass(scenes: &[&'static dyn Scene], seed: u64) -> Vec<Row> {
    let kernels: Vec<_> = scenes.iter().map(|s| s.kernels()).collect();
    let most = kernels.iter().map(Vec::len).max().unwrap_or(0);
    let turn = (seed % (CPUS.len() * SHAPES.len()) as u64) as usize;
    let mut rows = Vec::new();
    for step in 0..most {
        for (n, (&scene, kernels)) in scenes.iter().zip(&kernels).enumerate() {
            if step < kernels.len() {
                rows.push(Row {
                    scene,
                    kernel: kernels[(n + step) % kernels.len()].clone(),
                    cpu: CPUS[(n + 2 * step + turn) % CPUS.len()],
                    shape: SHAPES[(n + step + turn) % SHAPES.len()],
                    seed,
                });
            }
        }
    }
    rows
}

/// What a scene gets when `left` must do for it and `others` more rows of this
/// pass: an equal share, but not less than shows something and not more than makes
/// sense. `None` if not even that is left.
pub fn share(scene: &dyn Scene, left: Duration, others: usize) -> Option<Duration> {
    let equal = left / (others as u32 + 1);
    (scene.least() <= left).then(|| equal.clamp(scene.least(), scene.most()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::SCENES;
    use super::*;

    #[test]
    fn a_pass_has_every_scene_under_every_kernel_and_first_every_scene() {
        let rows = pass(&SCENES, 1);
        let first: BTreeSet<_> = rows[..SCENES.len()]
            .iter()
            .map(|r| r.scene.name())
            .collect();
        assert_eq!(first.len(), SCENES.len());
        for scene in SCENES {
            let mine = rows.iter().filter(|r| r.scene.name() == scene.name());
            let kernels: BTreeSet<_> = mine.map(|r| r.kernel.to_string()).collect();
            assert_eq!(kernels.len(), scene.kernels().len(), "{}", scene.name());
        }
        for cpu in CPUS {
            assert!(rows.iter().any(|r| r.cpu == cpu), "{cpu}");
        }
        for shape in SHAPES {
            assert!(rows.iter().any(|r| r.shape == shape), "{shape}");
        }
    }

    #[test]
    fn fifteen_passes_are_the_whole_matrix() {
        let rows = (7..22).flat_map(|seed| pass(&SCENES, seed));
        let all: BTreeSet<_> = rows.map(|r| r.to_string()).collect();
        let kernels: usize = SCENES.iter().map(|s| s.kernels().len()).sum();
        assert_eq!(all.len(), kernels * CPUS.len() * SHAPES.len());
    }

    #[test]
    fn time_is_shared_out_and_none_is_wasted() {
        let second = Duration::from_secs;
        let scene = SCENES[0];
        assert_eq!(share(scene, scene.least() - second(1), 0), None);
        assert_eq!(share(scene, scene.least(), 9), Some(scene.least()));
        let equal = scene.least() + second(7);
        assert_eq!(share(scene, equal * 10, 9), Some(equal));
        assert_eq!(share(scene, second(100_000), 1), Some(scene.most()));
    }
}
