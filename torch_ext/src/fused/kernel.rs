//! The table of fused kernels: which there are, their text, and what a launch of each needs.
//!
//! A kernel is a text that definitions make the kernel of one [`Spec`]; all of it works on pieces of 16 bytes and computes in
//! float32. Norms hold a row in registers, so that there is one for each range of row lengths: a warp has a row of up to
//! 2 KiB, a block of up to 16 warps a longer one.

use tch::Kind;

use crate::cuda::{PRIMITIVES, TableKernel};

/// Element type of the tensors that a kernel is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
    /// IEEE single.
    F32,
}

impl Element {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bf16, Self::F16, Self::F32];

    /// That of a tensor; none for others.
    #[must_use]
    pub fn of(kind: Kind) -> Option<Self> {
        Self::ALL.into_iter().find(|element| element.kind() == kind)
    }

    /// libtorch's name for it.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Bf16 => Kind::BFloat16,
            Self::F16 => Kind::Half,
            Self::F32 => Kind::Float,
        }
    }

    /// Numbers in 16 bytes.
    #[must_use]
    pub fn per_piece(self) -> usize {
        if self == Self::F32 { 4 } else { 8 }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }
}

/// What a step of AdamW keeps of each number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moments {
    /// Float32, and float32 weights of which a copy is written in the kernel's 16-bit type.
    Mixed,
    /// bfloat16, rounded stochastically.
    Bf16,
    /// 8 bits with a scale for each block of 256.
    Int8,
}

/// What a kernel computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pass {
    /// RMSNorm or LayerNorm (`layer`) of rows.
    Norm {
        /// LayerNorm.
        layer: bool,
    },
    /// Its gradients, those by the weight in parts.
    NormBackward {
        /// LayerNorm.
        layer: bool,
    },
    /// Parts of gradients by weights, added up.
    ColumnSums,
    /// `silu(gate) * up`.
    SwiGlu,
    /// Its gradients.
    SwiGluBackward,
    /// Loss and gradient of rows of logits.
    CrossEntropy,
    /// A step of the optimizer; [`Spec::element`] is the type of the weights, of their copy where [`Moments::Mixed`].
    AdamW {
        /// What is kept.
        moments: Moments,
        /// Type of the gradients: float32, or else 16 bits, those of bfloat16 but where the weights' copy is float16.
        single_gradients: bool,
    },
}

/// One kernel of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Spec {
    /// What it computes.
    pub pass: Pass,
    /// On what.
    pub element: Element,
    /// Warps that share a row of a norm; 0 for the others.
    pub group: usize,
}

/// A kernel, ready to be compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Which.
    pub spec: Spec,
    /// Warps in a block.
    pub warps: usize,
    /// Pieces of a row that a thread holds.
    pub chunks: usize,
    /// Blocks that registers must leave room for on one multiprocessor.
    pub min_blocks: usize,
}

/// Warps that share a row.
const GROUPS: [usize; 4] = [1, 4, 8, 16];

/// Every fused kernel.
#[must_use]
pub fn every_kernel() -> Vec<Kernel> {
    let mut specs = Vec::new();
    for element in Element::ALL {
        for layer in [false, true] {
            for group in GROUPS {
                specs.push(Spec { pass: Pass::Norm { layer }, element, group });
                specs.push(Spec { pass: Pass::NormBackward { layer }, element, group });
            }
        }
        for pass in [Pass::ColumnSums, Pass::SwiGlu, Pass::SwiGluBackward, Pass::CrossEntropy] {
            specs.push(Spec { pass, element, group: 0 });
        }
    }
    for single_gradients in [false, true] {
        let mut adamw = |element, moments| {
            specs.push(Spec { pass: Pass::AdamW { moments, single_gradients }, element, group: 0 });
        };
        adamw(Element::Bf16, Moments::Mixed);
        adamw(Element::F16, Moments::Mixed);
        for element in [Element::Bf16, Element::F32] {
            adamw(element, Moments::Bf16);
            adamw(element, Moments::Int8);
        }
    }
    specs.into_iter().map(Kernel::of).collect()
}

/// The kernel of a norm over rows of `columns` numbers; none for rows longer than any holds.
#[must_use]
pub fn norm(pass: Pass, element: Element, columns: usize) -> Option<Kernel> {
    let kernels = GROUPS.into_iter().map(|group| Kernel::of(Spec { pass, element, group }));
    kernels.into_iter().find(|kernel| columns <= kernel.most_columns())
}

impl Kernel {
    /// The kernel of a spec.
    #[must_use]
    pub fn of(spec: Spec) -> Self {
        let (warps, chunks, min_blocks) = match spec.pass {
            // The backward of LayerNorm keeps two sums for each column.
            Pass::Norm { layer } | Pass::NormBackward { layer } => {
                let chunks = if layer && spec.element != Element::F32 { 2 } else { 4 };
                // Registers: 80 a thread forward, 128 backward, 168 where a warp has a row.
                let warps_at_once = match (spec.pass, spec.group) {
                    (Pass::Norm { .. }, _) => 24,
                    (_, 1) => 12,
                    _ => 16,
                };
                (spec.group.max(4), chunks, warps_at_once / spec.group.max(4))
            }
            Pass::ColumnSums => (8, 1, 4),
            Pass::SwiGlu | Pass::SwiGluBackward => (8, 1, 4),
            // 49 of the 64 KB of a row of 32000 16-bit logits are held; two rows share a multiprocessor, so that one is read
            // while the other is written.
            Pass::CrossEntropy => (16, 6, 2),
            Pass::AdamW { moments: Moments::Bf16, .. } => (8, 1, 3),
            Pass::AdamW { .. } => (8, 1, 4),
        };
        Self { spec, warps, chunks, min_blocks }
    }

    /// Longest row that it holds.
    #[must_use]
    pub fn most_columns(&self) -> usize {
        32 * self.spec.group * self.chunks * self.spec.element.per_piece()
    }

    /// Threads in a block, all in x.
    #[must_use]
    pub fn threads(&self) -> u32 {
        u32::try_from(32 * self.warps).unwrap_or(u32::MAX)
    }

    /// Rows of a norm that a block has at once.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.warps / self.spec.group.max(1)
    }

    /// Blocks that a device of so many multiprocessors runs at once, at least.
    #[must_use]
    pub fn resident(&self, multiprocessors: u32) -> usize {
        self.min_blocks * multiprocessors as usize
    }

    /// Name of what it computes, for messages.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        match self.spec.pass {
            Pass::Norm { layer: false } => "rms_norm",
            Pass::Norm { layer: true } => "layer_norm",
            Pass::NormBackward { layer: false } => "rms_norm_backward",
            Pass::NormBackward { layer: true } => "layer_norm_backward",
            Pass::ColumnSums => "column_sums",
            Pass::SwiGlu => "swiglu",
            Pass::SwiGluBackward => "swiglu_backward",
            Pass::CrossEntropy => "cross_entropy",
            Pass::AdamW { moments: Moments::Mixed, .. } => "adamw_mixed",
            Pass::AdamW { moments: Moments::Bf16, .. } => "adamw_brain",
            Pass::AdamW { moments: Moments::Int8, .. } => "adamw_int8",
        }
    }

    fn defines(&self) -> Vec<(&'static str, usize)> {
        let Spec { pass, element, group } = self.spec;
        let mut defines = vec![
            ("ELEMENT_F16", usize::from(element == Element::F16)),
            ("ELEMENT_F32", usize::from(element == Element::F32)),
            ("WARPS", self.warps),
            ("GROUP", if group == 0 { self.warps } else { group }),
            ("CHUNKS", self.chunks),
            ("MIN_BLOCKS", self.min_blocks),
        ];
        match pass {
            Pass::Norm { layer } | Pass::NormBackward { layer } => defines.push(("LAYER_NORM", usize::from(layer))),
            Pass::AdamW { moments, single_gradients } => defines.extend([
                ("WEIGHT_HALF", usize::from(moments != Moments::Mixed && element != Element::F32)),
                ("GRADIENT_HALF", usize::from(!single_gradients)),
                // As the text numbers them.
                (
                    "MOMENTS",
                    match moments {
                        Moments::Mixed => 0,
                        Moments::Bf16 => 1,
                        Moments::Int8 => 2,
                    },
                ),
            ]),
            _ => {}
        }
        defines
    }
}

/// A file of `torch_ext/kernels`.
macro_rules! text {
    ($file:literal) => {
        ($file, include_str!(concat!("../../kernels/", $file)))
    };
}

impl TableKernel for Kernel {
    /// As `rms_norm_bf16_4096`, where the number is the longest row.
    fn name(&self) -> String {
        let (operation, element) = (self.operation(), self.spec.element.name());
        match self.spec.pass {
            Pass::Norm { .. } | Pass::NormBackward { .. } => format!("{operation}_{element}_{}", self.most_columns()),
            Pass::AdamW { single_gradients, .. } => {
                format!("{operation}_{element}_{}", if single_gradients { "f32" } else { "16" })
            }
            _ => format!("{operation}_{element}"),
        }
    }

    fn entry(&self) -> &'static str {
        match self.spec.pass {
            Pass::Norm { .. } => "norm_forward",
            Pass::NormBackward { .. } => "norm_backward",
            Pass::ColumnSums => "column_sums",
            Pass::SwiGlu => "swiglu_forward",
            Pass::SwiGluBackward => "swiglu_backward",
            Pass::CrossEntropy => "cross_entropy",
            Pass::AdamW { .. } => "adamw",
        }
    }

    fn parts(&self) -> Vec<(&'static str, &'static str)> {
        let rows = |params, own| vec![PRIMITIVES, text!("pieces.cuh"), text!("rows.cuh"), params, own];
        let norm = |own| {
            let mut parts = rows(text!("norm_params.cuh"), text!("statistics.cuh"));
            parts.push(own);
            parts
        };
        let swiglu = |own| {
            vec![
                PRIMITIVES,
                text!("pieces.cuh"),
                text!("rows.cuh"),
                text!("swiglu_params.cuh"),
                text!("swiglu.cuh"),
                own,
            ]
        };
        match self.spec.pass {
            Pass::Norm { .. } => norm(text!("norm_forward.cu")),
            Pass::NormBackward { .. } => norm(text!("norm_backward.cu")),
            Pass::ColumnSums => rows(text!("norm_params.cuh"), text!("column_sums.cu")),
            Pass::SwiGlu => swiglu(text!("swiglu_forward.cu")),
            Pass::SwiGluBackward => swiglu(text!("swiglu_backward.cu")),
            Pass::CrossEntropy => rows(text!("cross_entropy_params.cuh"), text!("cross_entropy.cu")),
            Pass::AdamW { .. } => {
                vec![PRIMITIVES, text!("adamw_params.cuh"), text!("random.cuh"), text!("adamw.cu")]
            }
        }
    }

    fn options(&self) -> Vec<String> {
        let mut options: Vec<String> =
            self.defines().into_iter().map(|(name, value)| format!("-D{name}={value}")).collect();
        if matches!(self.spec.pass, Pass::AdamW { .. }) {
            // The same bits as on the CPU, where no product is added without being rounded.
            options.push("--fmad=false".to_owned());
        }
        options
    }

    fn shared_bytes(&self) -> usize {
        match self.spec.pass {
            Pass::Norm { .. } | Pass::NormBackward { .. } if self.spec.group == 1 => 0,
            Pass::Norm { .. } | Pass::NormBackward { .. } => 2 * 4 * self.spec.group,
            Pass::ColumnSums => 4 * 32 * self.warps,
            Pass::SwiGlu | Pass::SwiGluBackward => 0,
            Pass::CrossEntropy => 8 * self.warps,
            Pass::AdamW { moments: Moments::Int8, .. } => 4 * 4 * 256,
            Pass::AdamW { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::cuda::source_hash;

    #[test]
    fn every_kernel_has_a_name_and_a_text_of_its_own() {
        let kernels = every_kernel();
        let names: HashSet<String> = kernels.iter().map(TableKernel::name).collect();
        let hashes: HashSet<String> = kernels.iter().map(|kernel| source_hash(kernel)).collect();
        assert_eq!((names.len(), hashes.len()), (kernels.len(), kernels.len()));
        for kernel in kernels {
            assert!(kernel.source().contains(&format!(") {}(const Params p)", kernel.entry())), "{}", kernel.name());
        }
    }

    #[test]
    fn rows_go_to_the_smallest_kernel_that_holds_them() {
        let most = |element, columns| {
            norm(Pass::Norm { layer: false }, element, columns).map(|kernel| (kernel.spec.group, kernel.most_columns()))
        };
        assert_eq!(most(Element::Bf16, 1), Some((1, 1024)));
        assert_eq!(most(Element::Bf16, 4096), Some((4, 4096)));
        assert_eq!(most(Element::F32, 4096), Some((8, 4096)));
        assert_eq!(most(Element::Bf16, 5120), Some((8, 8192)));
        assert_eq!(most(Element::F16, 16_384), Some((16, 16_384)));
        assert_eq!(most(Element::F16, 16_385), None);
        let backward = norm(Pass::NormBackward { layer: true }, Element::Bf16, 2560).unwrap();
        assert_eq!((backward.spec.group, backward.chunks, backward.most_columns()), (8, 2, 4096));
    }
}
