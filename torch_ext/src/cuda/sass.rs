//! Which machine instructions a CUBIN has, by their numbers, without a disassembler.
//!
//! A CUBIN is an ELF file whose sections `.text.NAME` hold the functions. From Volta to Hopper an instruction is 16 bytes, and
//! its lowest 9 bits are its number whatever its operands are (bits 9 to 11 tell their kinds). The numbers below were read off
//! `nvdisasm -hex` 13.2 on kernels of this project for sm_90a.

/// Instructions of sm_90a that a kernel stands or falls with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Instruction {
    /// A product of a warpgroup: `wgmma`.
    Hgmma,
    /// A box of a tensor to shared memory: `cp.async.bulk.tensor`.
    Utmaldg,
    /// Shared memory to a box.
    Utmastg,
    /// Shared memory added to a box: `cp.reduce.async.bulk.tensor`.
    Utmaredg,
    /// Bytes in a row to shared memory: `cp.async.bulk`.
    Ublkcp,
    /// Registers moved between warpgroups: `setmaxnreg`.
    Usetmaxreg,
    /// A product of a warp: `mma`.
    Hmma,
    /// A load from memory that a thread spilled to.
    Ldl,
    /// A store to it.
    Stl,
}

const NUMBERS: [(u16, Instruction); 9] = [
    (0x1f0, Instruction::Hgmma),
    (0x1b4, Instruction::Utmaldg),
    (0x1b5, Instruction::Utmastg),
    (0x1b6, Instruction::Utmaredg),
    (0x1ba, Instruction::Ublkcp),
    (0x1c8, Instruction::Usetmaxreg),
    (0x03c, Instruction::Hmma),
    (0x183, Instruction::Ldl),
    (0x187, Instruction::Stl),
];

impl Instruction {
    /// As a disassembler writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hgmma => "HGMMA",
            Self::Utmaldg => "UTMALDG",
            Self::Utmastg => "UTMASTG",
            Self::Utmaredg => "UTMAREDG",
            Self::Ublkcp => "UBLKCP",
            Self::Usetmaxreg => "USETMAXREG",
            Self::Hmma => "HMMA",
            Self::Ldl => "LDL",
            Self::Stl => "STL",
        }
    }
}

/// How often a function of a CUBIN has each instruction that is known here; none if the file has no such function or is none.
#[must_use]
pub fn instructions(cubin: &[u8], function: &str) -> Option<Vec<(Instruction, usize)>> {
    let code = section(cubin, &format!(".text.{function}"))?;
    let numbers: Vec<u16> = code.chunks_exact(16).map(|word| u16::from_le_bytes([word[0], word[1]]) & 0x1ff).collect();
    let count = |number: u16| numbers.iter().filter(|&&other| other == number).count();
    Some(NUMBERS.iter().map(|&(number, instruction)| (instruction, count(number))).collect())
}

/// Number of an exponential or another special function: `MUFU`.
const MUFU: u16 = 0x108;
/// Number of what opens products of a warpgroup and of what waits for them: `WARPGROUP`.
const WARPGROUP: u16 = 0x1c5;

/// How many special functions of a function, exponentials above all, are computed while products of a warpgroup are under way,
/// and how many there are: in the order of the machine code, those after a product, or a wait that leaves some, and before the
/// next wait for all. The assembler is free to move a wait before arithmetic that was written before it, and nothing but speed
/// tells.
#[must_use]
pub fn special_under_way(cubin: &[u8], function: &str) -> Option<(usize, usize)> {
    let code = section(cubin, &format!(".text.{function}"))?;
    let (mut is_under_way, mut under_way, mut all) = (false, 0, 0);
    for word in code.chunks_exact(16) {
        let bits =
            |from: usize| word[from..from + 8].iter().rev().fold(0_u64, |bits, &byte| bits << 8 | u64::from(byte));
        let (low, high) = (bits(0), bits(8));
        match (low & 0x1ff) as u16 {
            0x1f0 => is_under_way = true,
            // A wait, not an opening, and how many groups it leaves.
            WARPGROUP if low >> 47 & 1 == 1 => is_under_way = high >> 8 & 0x3f != 0,
            MUFU => {
                all += 1;
                under_way += usize::from(is_under_way);
            }
            _ => {}
        }
    }
    Some((under_way, all))
}

/// The bytes of a section of an ELF file of 64 bits, by its name.
fn section<'a>(file: &'a [u8], name: &str) -> Option<&'a [u8]> {
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let at = |place: usize, bytes: usize| -> Option<usize> {
        let slice = file.get(place..place.checked_add(bytes)?)?;
        usize::try_from(slice.iter().rev().fold(0_u64, |all, &byte| all << 8 | u64::from(byte))).ok()
    };
    let (headers, size, count, names) = (at(0x28, 8)?, at(0x3a, 2)?, at(0x3c, 2)?, at(0x3e, 2)?);
    let header = |index: usize| index.checked_mul(size)?.checked_add(headers);
    let bytes = |index: usize| -> Option<&'a [u8]> {
        let header = header(index)?;
        let (offset, length) = (at(header.checked_add(0x18)?, 8)?, at(header.checked_add(0x20)?, 8)?);
        file.get(offset..offset.checked_add(length)?)
    };
    let all_names = bytes(names)?;
    (0..count).find_map(|index| {
        let rest = all_names.get(at(header(index)?, 4)?..)?;
        let end = rest.iter().position(|&byte| byte == 0)?;
        (&rest[..end] == name.as_bytes()).then(|| bytes(index))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with a section of names and one of code.
    fn file(name: &str, code: &[u8]) -> Vec<u8> {
        let names = [b"\0", name.as_bytes(), b"\0"].concat();
        let headers = 64 + code.len() + names.len();
        let mut file = vec![0_u8; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[0x28..0x30].copy_from_slice(&(headers as u64).to_le_bytes());
        file[0x3a..0x40].copy_from_slice(&[64, 0, 2, 0, 1, 0]);
        file.extend(code);
        file.extend(&names);
        for (offset, length) in [(64, code.len()), (64 + code.len(), names.len())] {
            let mut header = [0_u8; 64];
            header[0] = u8::from(offset == 64);
            header[0x18..0x20].copy_from_slice(&(offset as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(length as u64).to_le_bytes());
            file.extend(header);
        }
        file
    }

    #[test]
    fn instructions_are_counted_whatever_their_operands_are() {
        let code: Vec<u8> = [0x79f0_u16, 0x7df0, 0x75b4, 0x723c, 0x7918]
            .iter()
            .flat_map(|&word| [word.to_le_bytes(), [0; 2]].concat().into_iter().chain([0; 12]))
            .collect();
        let counts = instructions(&file(".text.some", &code), "some").unwrap();
        let of = |wanted| counts.iter().find(|(instruction, _)| *instruction == wanted).unwrap().1;
        assert_eq!(
            [Instruction::Hgmma, Instruction::Utmaldg, Instruction::Hmma, Instruction::Stl].map(of),
            [2, 1, 1, 0]
        );
    }

    #[test]
    fn a_special_function_is_under_way_from_a_product_to_the_wait_for_all() {
        // As `nvdisasm -hex` 13.2 has them.
        let (arrive, product) = ((0x79c5_u64, 0x000f_e200_0000_0000_u64), (0x79f0, 0));
        let wait = |pending: u64| (0x0000_8000_0000_79c5, 0x000f_e400_0001_0000 | pending << 8);
        let exponential = (0x0000_0018_0018_7308, 0x000e_6200_0000_0800);
        let words = [
            exponential,
            arrive,
            exponential,
            product,
            exponential,
            wait(1),
            exponential,
            exponential,
            wait(0),
            exponential,
        ];
        let code: Vec<u8> =
            words.iter().flat_map(|(low, high)| [low.to_le_bytes(), high.to_le_bytes()].concat()).collect();
        assert_eq!(special_under_way(&file(".text.some", &code), "some"), Some((3, 6)));
        assert_eq!(special_under_way(&code, "some"), None);
    }

    #[test]
    fn what_is_no_such_file_has_no_instructions() {
        let whole = file(".text.some", &[0; 16]);
        assert_eq!(instructions(&whole, "other"), None);
        for length in 0..whole.len() {
            _ = instructions(&whole[..length], "some");
        }
        assert_eq!(instructions(b"nothing", "some"), None);
    }
}
