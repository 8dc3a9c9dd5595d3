// Everything that a kernel asks of the device beyond C++: ids, barriers, asynchronous copies, matrix fragments, rounding.
//
// The host twin has the same functions in twin/primitives.hpp. Shared memory is addressed by bytes from the start of the
// block's dynamic shared memory and global memory through the functions below alone, so that the twin sees every access.

#define DEVICE static __device__ __forceinline__
#define MEMBER __device__ __forceinline__
#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
// Of a lambda, after its parameters: what it is called with is known where it is called.
#define INLINED __attribute__((always_inline))
#define UNROLL _Pragma("unroll")
#define STRINGIFY(text) #text
#define UNROLL_BY(count) _Pragma(STRINGIFY(unroll count))

typedef unsigned int u32;
typedef unsigned short u16;

struct alignas(16) Chunk {
    u32 words[4];
};

DEVICE int thread_index() { return threadIdx.x; }
DEVICE int block_x() { return blockIdx.x; }
DEVICE int block_y() { return blockIdx.y; }
DEVICE int block_z() { return blockIdx.z; }
DEVICE int grid_x() { return gridDim.x; }

extern __shared__ __align__(1024) unsigned char shared_bytes[];

// Shared address of a byte; ldmatrix and cp.async take 32-bit ones.
DEVICE u32 shared_address(u32 byte) { return (u32)__cvta_generic_to_shared(shared_bytes) + byte; }

DEVICE void barrier() { __syncthreads(); }

// 16 bytes from global to shared memory; of these the first `bytes` (0 or 16) are read and the others set to zero.
DEVICE void copy_async(u32 to, const void *from, u32 bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most PENDING of this thread's latest groups are on their way.
template <int PENDING> DEVICE void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory"); }

// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
DEVICE void load_matrices(u32 (&to)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}
// The same, each matrix transposed.
DEVICE void load_matrices_transposed(u32 (&to)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}

// c += a b on 16x16 by 16x8 elements, sums in float32.
DEVICE void multiply_add(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if ELEMENT_F16
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
#endif
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two numbers rounded to elements, `low` at the lower address.
DEVICE u32 pack(float low, float high) {
    u32 packed;
#if ELEMENT_F16
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
#else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
#endif
    return packed;
}

// The element in the lower or upper half of a word.
DEVICE float unpack(u32 word, int upper) {
    u32 bits = upper ? word >> 16 : word & 0xffffu;
#if ELEMENT_F16
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"((u16)bits));
    return value;
#else
    return __uint_as_float(bits << 16);
#endif
}

// The value of the lane whose number differs by `mask`.
DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
// Whether it holds for some lane of the warp.
DEVICE bool any_lane(bool it) { return __any_sync(0xffffffffu, it); }

DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float reciprocal_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float log2_fast(float x) {
    float y;
    asm("lg2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float fma_(float a, float b, float c) { return __fmaf_rn(a, b, c); }
// Rounded to nearest, as IEEE 754 has them.
DEVICE float divide(float a, float b) { return __fdiv_rn(a, b); }
DEVICE float square_root(float x) { return __fsqrt_rn(x); }
DEVICE float max_(float a, float b) { return fmaxf(a, b); }
DEVICE int max_(int a, int b) { return a > b ? a : b; }
DEVICE int min_(int a, int b) { return a < b ? a : b; }
DEVICE float abs_(float x) { return fabsf(x); }
DEVICE float infinity() { return __int_as_float(0x7f800000); }

DEVICE float load_float(const float *from) { return *from; }
DEVICE int load_int(const int *from) { return *from; }
DEVICE long long load_long(const long long *from) { return *from; }
DEVICE u16 load_u16(const void *from) { return *(const u16 *)from; }
DEVICE unsigned char load_byte(const void *from) { return *(const unsigned char *)from; }
DEVICE Chunk load_chunk(const void *from) { return *(const Chunk *)from; }
DEVICE void store_float(float *to, float value) { *to = value; }
DEVICE void store_word(void *to, u32 word) { *(u32 *)to = word; }
DEVICE void store_u16(void *to, u16 bits) { *(u16 *)to = bits; }
DEVICE void store_byte(void *to, unsigned char byte) { *(unsigned char *)to = byte; }
DEVICE void store_chunk(void *to, Chunk chunk) { *(Chunk *)to = chunk; }
DEVICE void add_to_float(float *to, float value) { atomicAdd(to, value); }

DEVICE float load_shared_float(u32 address) {
    float value;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
    return value;
}
DEVICE float from_bits(u32 bits) { return __uint_as_float(bits); }
DEVICE u32 to_bits(float value) { return __float_as_uint(value); }
DEVICE Chunk load_shared_chunk(u32 address) {
    Chunk chunk;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(chunk.words[0]), "=r"(chunk.words[1]), "=r"(chunk.words[2]), "=r"(chunk.words[3])
                 : "r"(address)
                 : "memory");
    return chunk;
}
DEVICE int load_shared_int(u32 address) {
    int value;
    asm volatile("ld.shared.s32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
    return value;
}
DEVICE void store_shared_float(u32 address, float value) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}
DEVICE void store_shared_word(u32 address, u32 word) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(word) : "memory");
}
