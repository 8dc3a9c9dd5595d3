// The primitives of ../primitives.cuh on the machine of the host twin: the same names, the same meaning.
#pragma once

#include "machine.hpp"

#define DEVICE static inline
#define MEMBER inline
#define KERNEL(threads, blocks) extern "C" void
#define INLINED __attribute__((always_inline))
#define UNROLL
#define UNROLL_BY(count)

struct alignas(16) Chunk {
    u32 words[4];
};

DEVICE int thread_index() { return twin::current->index; }
DEVICE int block_x() { return twin::block->at[0]; }
DEVICE int block_y() { return twin::block->at[1]; }
DEVICE int block_z() { return twin::block->at[2]; }
DEVICE int grid_x() { return twin::grid_size[0]; }

DEVICE u32 shared_address(u32 byte) { return byte; }

DEVICE void barrier_of(int number, int threads) {
    if (number < 0 || number >= twin::BARRIERS) twin::fail("there is no barrier %d", number);
    twin::current->barrier = number;
    twin::current->threads = threads;
    twin::wait_as(twin::AT_BARRIER);
}
DEVICE void barrier() { barrier_of(0, twin::lane_count); }

// ---- asynchronous copies: what is copied is unknown from the start of a copy until it is waited for ----

DEVICE void copy_async(u32 to, const void *from, u32 bytes) {
    twin::Lane &lane = *twin::current;
    if (bytes != 0 && bytes != 16) twin::fail("an asynchronous copy of %u bytes", bytes);
    twin::check_shared(to, 16);
    if (bytes) twin::check_global(from, 16, 16);
    else if ((uintptr_t)from % 16) twin::fail("an asynchronous copy from a misaligned address");
    memset(twin::shared + to, twin::POISON, 16);
    lane.copies.push_back({to, from, bytes, lane.group});
}
DEVICE void copy_commit() { twin::current->group++; }
template <int PENDING> DEVICE void copy_wait() {
    twin::Lane &lane = *twin::current;
    size_t kept = 0;
    for (size_t i = 0; i < lane.copies.size(); i++) {
        twin::Copy copy = lane.copies[i];
        // Copies that are in no group yet, and those of the last groups, stay on their way.
        if (copy.group >= lane.group - PENDING) {
            lane.copies[kept++] = copy;
            continue;
        }
        memset(twin::shared + copy.to, 0, 16);
        memcpy(twin::shared + copy.to, copy.from, copy.bytes);
    }
    lane.copies.resize(kept);
}

// ---- what a warp does together ----

DEVICE void load_as(twin::Kind kind, u32 (&to)[4], u32 address) {
    twin::current->request.address = address;
    twin::Request &request = twin::together(kind);
    for (int i = 0; i < 4; i++) to[i] = request.words[i];
}
DEVICE void load_matrices(u32 (&to)[4], u32 address) { load_as(twin::LOAD, to, address); }
DEVICE void load_matrices_transposed(u32 (&to)[4], u32 address) { load_as(twin::LOAD_TRANSPOSED, to, address); }

DEVICE void multiply_add(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    twin::Request &mine = twin::current->request;
    for (int i = 0; i < 4; i++) mine.words[i] = a[i];
    mine.other[0] = b0;
    mine.other[1] = b1;
    for (int i = 0; i < 4; i++) mine.sums[i] = c[i];
    twin::Request &request = twin::together(twin::MULTIPLY);
    for (int i = 0; i < 4; i++) c[i] = request.sums[i];
}

DEVICE float shuffle_xor(float value, int mask) {
    twin::current->request.value = value;
    twin::current->request.mask = mask;
    return twin::together(twin::SHUFFLE).value;
}
DEVICE bool any_lane(bool it) {
    twin::current->request.flag = it;
    return twin::together(twin::ANY).flag;
}

// ---- numbers ----

DEVICE float from_bits(u32 bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
DEVICE u32 to_bits(float value) {
    u32 bits;
    memcpy(&bits, &value, 4);
    return bits;
}

// To the nearest of the numbers that an element may be, ties to even.
DEVICE u32 element_bits(float value) {
    u32 sign = to_bits(value) >> 16 & 0x8000u;
    if (value != value) return 0x7fffu;
#if ELEMENT_F16
    double magnitude = std::fabs((double)value);
    if (magnitude == 0.0) return sign;
    if (magnitude >= 65520.0) return sign | 0x7c00u;
    int exponent;
    std::frexp(magnitude, &exponent);
    // Steps of 2^-24 below the smallest normal number, of 2^-10 of the leading bit above it.
    int step = exponent - 11 < -24 ? -24 : exponent - 11;
    u32 count = (u32)std::nearbyint(std::ldexp(magnitude, -step));
    return sign | (count + ((u32)(step + 24) << 10));
#else
    u32 bits = to_bits(value) & 0x7fffffffu;
    return sign | (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
#endif
}

DEVICE u32 pack(float low, float high) { return element_bits(low) | element_bits(high) << 16; }
DEVICE float unpack(u32 word, int upper) {
    u32 bits = upper ? word >> 16 : word & 0xffffu;
#if ELEMENT_F16
    u32 exponent = bits >> 10 & 31u, fraction = bits & 1023u;
    float magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                      : exponent     ? std::ldexp((float)(1024 + fraction), (int)exponent - 25)
                                     : std::ldexp((float)fraction, -24);
    return bits & 0x8000u ? -magnitude : magnitude;
#else
    return from_bits(bits << 16);
#endif
}
inline float twin::element(u32 word, int upper) { return unpack(word, upper); }

// The device's fast functions flush numbers below the smallest normal one to zero.
DEVICE float flushed(float x) { return std::fabs(x) < 1.17549435e-38f ? 0.0f : x; }
DEVICE float exp2_fast(float x) { return flushed(std::exp2(flushed(x))); }
DEVICE float reciprocal_fast(float x) { return flushed(1.0f / x); }
DEVICE float log2_fast(float x) { return std::log2(x); }
DEVICE float fma_(float a, float b, float c) { return std::fma(a, b, c); }
DEVICE float divide(float a, float b) { return a / b; }
DEVICE float square_root(float x) { return std::sqrt(x); }
DEVICE float max_(float a, float b) { return std::fmax(a, b); }
DEVICE int max_(int a, int b) { return a > b ? a : b; }
DEVICE int min_(int a, int b) { return a < b ? a : b; }
DEVICE float abs_(float x) { return std::fabs(x); }
DEVICE float infinity() { return INFINITY; }

// ---- memory ----

template <class T> DEVICE T load_global(const void *from) {
    twin::check_global(from, sizeof(T), sizeof(T));
    T value;
    memcpy(&value, from, sizeof(T));
    return value;
}
template <class T> DEVICE void store_global(void *to, T value) {
    twin::check_global(to, sizeof(T), sizeof(T));
    memcpy(to, &value, sizeof(T));
}
DEVICE float load_float(const float *from) { return load_global<float>(from); }
DEVICE int load_int(const int *from) { return load_global<int>(from); }
DEVICE long long load_long(const long long *from) { return load_global<long long>(from); }
DEVICE u16 load_u16(const void *from) { return load_global<u16>(from); }
DEVICE unsigned char load_byte(const void *from) { return load_global<unsigned char>(from); }
DEVICE Chunk load_chunk(const void *from) { return load_global<Chunk>(from); }
DEVICE void store_float(float *to, float value) { store_global(to, value); }
DEVICE void store_word(void *to, u32 word) { store_global(to, word); }
DEVICE void store_u16(void *to, u16 bits) { store_global(to, bits); }
DEVICE void store_byte(void *to, unsigned char byte) { store_global(to, byte); }
DEVICE void store_chunk(void *to, Chunk chunk) { store_global(to, chunk); }
DEVICE void add_to_float(float *to, float value) { store_global(to, load_global<float>(to) + value); }

DEVICE float load_shared_float(u32 address) {
    twin::check_shared(address, 4);
    float value;
    memcpy(&value, twin::shared + address, 4);
    return value;
}
DEVICE Chunk load_shared_chunk(u32 address) {
    twin::check_shared(address, 16);
    Chunk chunk;
    memcpy(&chunk, twin::shared + address, 16);
    return chunk;
}
DEVICE int load_shared_int(u32 address) {
    twin::check_shared(address, 4);
    int value;
    memcpy(&value, twin::shared + address, 4);
    return value;
}
DEVICE void store_shared_float(u32 address, float value) {
    twin::check_shared(address, 4);
    memcpy(twin::shared + address, &value, 4);
    twin::wrote_shared(address, 4);
}
DEVICE void store_shared_word(u32 address, u32 word) {
    twin::check_shared(address, 4);
    memcpy(twin::shared + address, &word, 4);
    twin::wrote_shared(address, 4);
}

#ifndef HOPPER
// Kernels of generation 1 do no more than the above.
twin::More *twin::new_more() { return nullptr; }
void twin::carry_out_more(Lane **) { fail("a warp does nothing together"); }
bool twin::settle_more(bool) { return false; }
void twin::start_block_more() {}
void twin::end_block_more() {}
void twin::end_grid_more() {}
void twin::wrote_shared(u32, u32) {}
#endif
