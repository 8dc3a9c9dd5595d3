// What a launch of AdamW is told; mirrors `Params` of fused/adamw.rs.

struct Params {
    // What is moved, and where its numbers rounded to 16 bits go (mixed alone).
    void *weights, *copy;
    const void *gradients;
    void *means, *squares;
    // 8-bit moments: scales of blocks; values of the signed and the unsigned map, and half-way from each to the next.
    float *mean_scales, *square_scales;
    const float *values, *middles;
    long long count;
    // Random bits: place of the first number in its parameter, seed, and the lower bits of the step's number.
    long long first;
    unsigned long long seed;
    u32 step, parameter;
    // As `Numbers` of optim/low.rs.
    float scale, beta1, take1, beta2, take2, keep, rate, root, epsilon;
    int padding;
};
