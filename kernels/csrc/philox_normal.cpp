// Counter-based normal noise: Philox4x32-10 (Salmon et al. 2011) and Box-Muller in double precision.
// The mapping from (seed, sample, stream, element) to a number is described in reference.py.
#include <cmath>
#include <cstdint>

namespace {

struct Words {
    std::uint32_t at[4];
};

Words philox(Words counter, std::uint32_t key0, std::uint32_t key1) {
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = static_cast<std::uint64_t>(0xD2511F53u) * counter.at[0];
        const std::uint64_t p1 = static_cast<std::uint64_t>(0xCD9E8D57u) * counter.at[2];
        counter = {{static_cast<std::uint32_t>(p1 >> 32) ^ counter.at[1] ^ key0, static_cast<std::uint32_t>(p1),
                    static_cast<std::uint32_t>(p0 >> 32) ^ counter.at[3] ^ key1, static_cast<std::uint32_t>(p0)}};
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return counter;
}

}  // namespace

extern "C" void ld4lg_philox_normal(std::uint64_t seed, const std::int64_t* sample_ids, std::int64_t samples,
                                    std::uint32_t stream, std::int64_t count, float* out, std::int64_t threads) {
    constexpr double kScale = 1.0 / 4294967296.0, kTwoPi = 6.283185307179586476925;
    const std::int64_t blocks = (count + 3) / 4, all = samples * blocks;
#pragma omp parallel for num_threads(threads) schedule(static) if (all > 1024)
    for (std::int64_t i = 0; i < all; ++i) {
        const std::int64_t sample = i / blocks, block = i % blocks;
        const auto id = static_cast<std::uint64_t>(sample_ids[sample]);
        const Words words = philox({{static_cast<std::uint32_t>(block), stream, static_cast<std::uint32_t>(id),
                                     static_cast<std::uint32_t>(id >> 32)}},
                                   static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32));
        for (int pair = 0; pair < 2; ++pair) {
            const double radius = std::sqrt(-2.0 * std::log((words.at[2 * pair] + 1.0) * kScale));
            const double angle = kTwoPi * (words.at[2 * pair + 1] * kScale);
            const double normals[2] = {radius * std::cos(angle), radius * std::sin(angle)};
            for (int lane = 0; lane < 2; ++lane) {
                const std::int64_t element = 4 * block + 2 * pair + lane;
                if (element < count) out[sample * count + element] = static_cast<float>(normals[lane]);
            }
        }
    }
}
