// The parts of the gradients by weight and bias, float32 [parts, columns], added up and rounded.
//
// A lane has a column, a warp every so many parts of it; the warps' sums are added in their order. Grid: x = columns by 32;
// y = 0 for the weight, 1 for the bias.

KERNEL(THREADS, MIN_BLOCKS) column_sums(const Params p) {
    int warp = thread_index() / 32, lane = thread_index() % 32;
    long long column = 32LL * block_x() + lane;
    const float *parts = block_y() ? p.dbias_parts : p.dweight_parts;
    // Four sums, so that as many loads are on their way.
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (column < p.columns) {
        long long part = warp;
        for (; part + 3 * WARPS < p.parts; part += 4 * WARPS)
            UNROLL for (int i = 0; i < 4; i++) sums[i] += load_float(parts + (part + i * WARPS) * p.columns + column);
        for (; part < p.parts; part += WARPS) sums[0] += load_float(parts + part * p.columns + column);
    }
    store_shared_float(shared_address(4 * thread_index()), (sums[0] + sums[1]) + (sums[2] + sums[3]));
    barrier();
    if (warp != 0 || column >= p.columns) return;
    float sum = 0.0f;
    UNROLL for (int i = 0; i < WARPS; i++) sum += load_shared_float(shared_address(4 * (32 * i + lane)));
    store_number((char *)(block_y() ? p.dbias : p.dweight) + SIZE * column, sum);
}
