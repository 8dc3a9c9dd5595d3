// Random bits by counter, Philox 4x32 with 10 rounds (Salmon et al. 2011, section 3.3), counted as in optim/random.rs; and
// stochastic rounding to bfloat16 as in optim/rounding.rs.

#define WEIGHT_BITS 0
#define MEAN_BITS 1
#define SQUARE_BITS 2

// The words of the 8 numbers from `element` on, a multiple of 8; number i takes half i.
DEVICE void random_words(u32 (&words)[4], const Params &p, u32 use, unsigned long long element) {
    unsigned long long call = element / 8;
    u32 c0 = (u32)call, c1 = p.parameter, c2 = p.step, c3 = use | (u32)(call >> 32) << 2;
    u32 k0 = (u32)p.seed, k1 = (u32)(p.seed >> 32);
    UNROLL for (int round = 0; round < 10; round++) {
        unsigned long long first = 0xD2511F53ull * c0, second = 0xCD9E8D57ull * c2;
        u32 n0 = (u32)(second >> 32) ^ c1 ^ k0, n2 = (u32)(first >> 32) ^ c3 ^ k1;
        c0 = n0, c1 = (u32)second, c2 = n2, c3 = (u32)first;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

// Away from zero with the odds that the lower 16 bits call for; finite numbers stay finite.
DEVICE u32 stochastic_bits(float x, u32 random) {
    u32 word = to_bits(x), truncated = word >> 16, rounded = (word + random) >> 16;
    bool is_nan = (word & 0x7fffffffu) > 0x7f800000u;
    bool leaves = (rounded & 0x7f80u) == 0x7f80u || (truncated & 0x7f80u) == 0x7f80u;
    return leaves ? truncated | (is_nan ? 0x40u : 0u) : rounded;
}
