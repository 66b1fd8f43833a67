// Ranges for profilers (NVTX, domain "sp"): the work that a call gives a CUDA queue has the name that traces of sp use for it.
// Without a tool a range is one comparison; with SP_NO_NVTX, or where the toolkit has no nvtx3, it is nothing at all.
#pragma once

#if !defined(SP_NO_NVTX) && !defined(NVTX_DISABLE) && __has_include(<nvtx3/nvToolsExt.h>)
#define SP_HAS_NVTX 1
#include <array>
#include <cstdio>

#include <nvtx3/nvToolsExt.h>
#endif

namespace sp::detail {

#ifdef SP_HAS_NVTX

/// The domain of sp, made by the first range; null without a tool.
inline nvtxDomainHandle_t profiler_domain() noexcept {
  static nvtxDomainHandle_t const domain = nvtxDomainCreateA("sp");
  return domain;
}

/// From here to the end of the scope, on this thread. Ranges nest.
class profiler_range {
public:
  profiler_range(char const* object, char const* call) noexcept : domain_(profiler_domain()) {
    if (!domain_) return;
    std::array<char, 128> text{};
    std::snprintf(text.data(), text.size(), "%s%s", object, call);
    nvtxEventAttributes_t what{};
    what.version = NVTX_VERSION;
    what.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
    what.messageType = NVTX_MESSAGE_TYPE_ASCII;
    what.message.ascii = text.data();
    nvtxDomainRangePushEx(domain_, &what);
  }
  profiler_range(profiler_range const&) = delete;
  ~profiler_range() {
    if (domain_) nvtxDomainRangePop(domain_);
  }

private:
  nvtxDomainHandle_t domain_;
};

#else

struct profiler_range {
  profiler_range(char const*, char const*) noexcept {}
};

#endif

} // namespace sp::detail
