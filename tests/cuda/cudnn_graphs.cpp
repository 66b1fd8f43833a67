// The one source with cuDNN's frontend: it compiles and links, and the frontend takes the graphs of every kind of call that
// sp::cudnn makes. Without a device nothing is computed, and no plan is made.
#define SP_CUDNN_IMPLEMENTATION
#include <sp/cudnn.hpp>

#include <cstdio>

namespace {

using namespace sp::detail;

struct shape_of {
  bool backward, causal, ragged, deterministic = false;
  sp::index_t q_heads = 8, kv_heads = 2, dim = 128, value_dim = 128, rows = 512, keys = 512, head_stride = 0;
};

sdpa_shape made(shape_of const& x) {
  sdpa_shape s;
  s.backward = x.backward, s.causal = x.causal, s.ragged = x.ragged, s.deterministic = x.deterministic;
  s.is_bf16 = true;
  s.batch = 4, s.rows = x.rows, s.keys = x.keys;
  s.q_heads = x.q_heads, s.kv_heads = x.kv_heads, s.dim = x.dim, s.value_dim = x.value_dim;
  for (int t = 0; t < (x.backward ? int(sdpa_tensor_count) : sdpa_forward_tensors); ++t) {
    bool const keys = t == sdpa_k || t == sdpa_v || t == sdpa_dk || t == sdpa_dv;
    bool const values = t == sdpa_v || t == sdpa_out || t == sdpa_dout || t == sdpa_dv;
    sp::index_t const heads = keys ? x.kv_heads : x.q_heads, dim = (values ? x.value_dim : x.dim) + x.head_stride;
    s.strides[t] = {(keys ? x.keys : x.rows) * heads * dim, dim, heads * dim};
  }
  return s;
}

int failures = 0;

/// What the frontend says of a graph for an architecture; empty: it takes it.
std::string said(sdpa_shape const& s, int architecture) {
  sdpa_graph g(s, architecture);
  auto e = g.graph.validate();
  return e.is_good() ? std::string() : e.get_message();
}
void expect(bool right, char const* what, std::string const& more) {
  if (right) return;
  ++failures;
  std::printf("WRONG: %s: %s\n", what, more.c_str());
}

void refused(sdpa_shape const& s, char const* why) {
  std::string const e = said(s, 90);
  expect(e.find(why) != std::string::npos, "a graph is not refused for the reason", std::string(why) + ", but: " + e);
}

} // namespace

int main() {
  int taken = 0;
  for (int architecture : {80, 90, 100})
    for (bool backward : {false, true})
      for (bool causal : {false, true})
        for (bool ragged : {false, true})
          for (sp::index_t dim : {64, 128}) {
            shape_of x{backward, causal, ragged};
            x.dim = x.value_dim = dim;
            x.head_stride = causal ? 64 : 0; // tensors with holes
            std::string const why = said(made(x), architecture);
            expect(why.empty(), "a graph is refused", why);
            ++taken;
          }
  shape_of wide{true, true, true}; // what the frontend must refuse, as it can tell it
  wide.dim = wide.value_dim = 264;
  refused(made(wide), "less than or equal to 256");
  shape_of odd{false, true, true};
  odd.dim = 20;
  refused(made(odd), "multiple of 8");
  shape_of one{true, false, false};
  one.rows = one.keys = 1;
  refused(made(one), "s_q = s_kv = 1");
  std::printf("%d graphs taken, cuDNN %zu, %d failures\n", taken, cudnnGetVersion(), failures);
  try {
    auto const engine = sp::make_cudnn_engine();
    expect(engine->plans() == 0, "an engine begins with plans", "");
  } catch (sp::error const& e) {
    expect(false, "no engine", e.what());
  }
  return failures != 0;
}
