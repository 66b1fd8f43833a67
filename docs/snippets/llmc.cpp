// A GPT of one layer with functions of the same names and shapes as llm.c's, written for this test: the README's section on llm.c
// is compiled against it, and what three ranks compute is compared with a plain attention on one.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

// TOP

constexpr int V = 17, C = 12, NH = 3, L = 1, max_T = 40; // vocabulary, channels, heads, layers, positions

/// Parameters and their gradients, one behind the other: wte (V, C), wpe (max_T, C), qkvw (3C, C).
struct GPT2 {
  static constexpr std::size_t num_parameters = std::size_t(V + max_T + 3 * C) * C;
  std::vector<float> params_memory = std::vector<float>(num_parameters), grads_memory = std::vector<float>(num_parameters);
  std::vector<float> encoded, qkv, atty, probs, losses, att;
  float mean_loss = 0;

  GPT2() {
    std::mt19937 g(1);
    for (float& x : params_memory) x = std::normal_distribution<float>(0, 0.5F)(g);
  }
  float* wte() { return params_memory.data(); }
  float* wpe() { return wte() + V * C; }
  float* qkvw() { return wpe() + max_T * C; }
  void resize(int rows) {
    encoded.assign(std::size_t(rows * C), 0);
    qkv.assign(std::size_t(rows * 3 * C), 0);
    atty.assign(std::size_t(rows * C), 0);
    probs.assign(std::size_t(rows * V), 0);
    losses.assign(std::size_t(rows), 0);
  }
};

/// out (rows, m) = in (rows, n) w^T, w (m, n); and the gradients of both, added.
void matmul_forward(float* out, float const* in, float const* w, int rows, int n, int m) {
  for (int r = 0; r < rows; ++r)
    for (int i = 0; i < m; ++i) {
      out[r * m + i] = 0;
      for (int j = 0; j < n; ++j) out[r * m + i] += in[r * n + j] * w[i * n + j];
    }
}
void matmul_backward(float* din, float* dw, float const* dout, float const* in, float const* w, int rows, int n, int m) {
  for (int r = 0; r < rows; ++r)
    for (int i = 0; i < m; ++i)
      for (int j = 0; j < n; ++j) {
        din[r * n + j] += dout[r * m + i] * w[i * n + j];
        dw[i * n + j] += dout[r * m + i] * in[r * n + j];
      }
}

void encoder_forward(GPT2& m, int const* tokens, sp::index_t const* positions, int rows) {
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < C; ++c) m.encoded[std::size_t(r * C + c)] = m.wte()[tokens[r] * C + c] + m.wpe()[positions[r] * C + c];
}
void encoder_backward(GPT2& m, float const* dencoded, int const* tokens, sp::index_t const* positions, int rows) {
  float *dwte = m.grads_memory.data(), *dwpe = dwte + V * C;
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < C; ++c) {
      dwte[tokens[r] * C + c] += dencoded[r * C + c];
      dwpe[positions[r] * C + c] += dencoded[r * C + c];
    }
}

/// losses (rows) of logits = atty wte^T; the probabilities stay for the backward pass.
void head_forward(GPT2& m, int const* targets, int rows) {
  matmul_forward(m.probs.data(), m.atty.data(), m.wte(), rows, C, V);
  for (int r = 0; r < rows; ++r) {
    float* p = &m.probs[std::size_t(r * V)];
    float sum = 0;
    for (int i = 0; i < V; ++i) sum += p[i] = std::exp(p[i]);
    for (int i = 0; i < V; ++i) p[i] /= sum;
    m.losses[std::size_t(r)] = -std::log(p[targets[r]]);
  }
}
void head_backward(GPT2& m, float* datty, float const* dlosses, int const* targets, int rows) {
  std::vector<float> dlogits(std::size_t(rows * V));
  for (int r = 0; r < rows; ++r)
    for (int i = 0; i < V; ++i)
      dlogits[std::size_t(r * V + i)] = dlosses[r] * (m.probs[std::size_t(r * V + i)] - (i == targets[r] ? 1.F : 0.F));
  matmul_backward(datty, m.grads_memory.data(), dlogits.data(), m.atty.data(), m.wte(), rows, C, V);
}

// ---- one rank: a plain attention that keeps its (B, NH, T, T) probabilities ---------------------------------------------------------

void plain_forward(GPT2& m, int B, int T) {
  int hs = C / NH;
  m.att.assign(std::size_t(B * NH * T * T), 0);
  for (int b = 0; b < B; ++b)
    for (int h = 0; h < NH; ++h)
      for (int t = 0; t < T; ++t) {
        float* p = &m.att[std::size_t(((b * NH + h) * T + t) * T)];
        float* q = &m.qkv[std::size_t((b * T + t) * 3 * C + h * hs)];
        float sum = 0;
        for (int s = 0; s <= t; ++s) {
          float x = 0, *k = &m.qkv[std::size_t((b * T + s) * 3 * C + C + h * hs)];
          for (int c = 0; c < hs; ++c) x += q[c] * k[c];
          sum += p[s] = std::exp(x / std::sqrt(float(hs)));
        }
        for (int s = 0; s <= t; ++s) p[s] /= sum;
        for (int c = 0; c < hs; ++c) {
          float x = 0;
          for (int s = 0; s <= t; ++s) x += p[s] * m.qkv[std::size_t((b * T + s) * 3 * C + 2 * C + h * hs + c)];
          m.atty[std::size_t((b * T + t) * C + h * hs + c)] = x;
        }
      }
}
void plain_backward(GPT2& m, std::vector<float>& dqkv, std::vector<float> const& dout, int B, int T) {
  int hs = C / NH;
  for (int b = 0; b < B; ++b)
    for (int h = 0; h < NH; ++h)
      for (int t = 0; t < T; ++t) {
        float const *p = &m.att[std::size_t(((b * NH + h) * T + t) * T)], *o = &dout[std::size_t((b * T + t) * C + h * hs)];
        std::vector<float> dp(std::size_t(t + 1));
        float mean = 0;
        for (int s = 0; s <= t; ++s) {
          std::size_t v = std::size_t((b * T + s) * 3 * C + 2 * C + h * hs);
          for (std::size_t c = 0; c < std::size_t(hs); ++c) {
            dp[std::size_t(s)] += m.qkv[v + c] * o[c];
            dqkv[v + c] += p[s] * o[c];
          }
          mean += p[s] * dp[std::size_t(s)];
        }
        for (int s = 0; s <= t; ++s) {
          float ds = p[s] * (dp[std::size_t(s)] - mean) / std::sqrt(float(hs));
          std::size_t q = std::size_t((b * T + t) * 3 * C + h * hs), k = std::size_t((b * T + s) * 3 * C + C + h * hs);
          for (std::size_t c = 0; c < std::size_t(hs); ++c) {
            dqkv[q + c] += ds * m.qkv[k + c];
            dqkv[k + c] += ds * m.qkv[q + c];
          }
        }
      }
}

void train_step_of_one_rank(GPT2& m, int const* inputs, int const* targets, int B, int T) {
  int rows = B * T;
  m.resize(rows);
  std::vector<sp::index_t> positions;
  for (int r = 0; r < rows; ++r) positions.push_back(r % T);
  encoder_forward(m, inputs, positions.data(), rows);
  matmul_forward(m.qkv.data(), m.encoded.data(), m.qkvw(), rows, C, 3 * C);
  plain_forward(m, B, T);
  head_forward(m, targets, rows);
  m.mean_loss = 0;
  for (float x : m.losses) m.mean_loss += x / float(rows);
  std::vector<float> dlosses(std::size_t(rows), 1.F / float(rows)), datty(m.atty.size()), dqkv(m.qkv.size()),
      dencoded(m.encoded.size());
  head_backward(m, datty.data(), dlosses.data(), targets, rows);
  plain_backward(m, dqkv, datty, B, T);
  matmul_backward(dencoded.data(), m.grads_memory.data() + (V + max_T) * C, dqkv.data(), m.encoded.data(), m.qkvw(), rows, C,
                  3 * C);
  encoder_backward(m, dencoded.data(), inputs, positions.data(), rows);
}

// ---- several ranks: the same, with the README's struct -----------------------------------------------------------------------------

void gpt2_forward(GPT2* model, Sequence& seq) {
  GPT2& m = *model;
  int rows = int(seq.rows());
  m.resize(rows);
  encoder_forward(m, seq.inputs.data(), seq.positions.data(), rows);
  matmul_forward(m.qkv.data(), m.encoded.data(), m.qkvw(), rows, C, 3 * C);
  seq.attention_forward(0, m.atty.data(), m.qkv.data(), C, NH);
  head_forward(m, seq.targets.data(), rows);
  m.mean_loss = seq.loss_forward(m.losses.data());
}
void gpt2_backward(GPT2* model, Sequence& seq) {
  GPT2& m = *model;
  int rows = int(seq.rows());
  std::vector<float> dlosses(m.losses.size()), datty(m.atty.size()), dqkv(m.qkv.size()), dencoded(m.encoded.size());
  seq.loss_backward(dlosses.data());
  head_backward(m, datty.data(), dlosses.data(), seq.targets.data(), rows);
  seq.attention_backward(0, dqkv.data(), datty.data(), m.qkv.data(), m.atty.data(), C, NH);
  matmul_backward(dencoded.data(), m.grads_memory.data() + (V + max_T) * C, dqkv.data(), m.encoded.data(), m.qkvw(), rows, C,
                  3 * C);
  encoder_backward(m, dencoded.data(), seq.inputs.data(), seq.positions.data(), rows);
}
void gpt2_zero_grad(GPT2* model) { model->grads_memory.assign(GPT2::num_parameters, 0); }
void gpt2_build_from_checkpoint(GPT2*, char const*) {}

constexpr int B = 2, T = 37; // rows that do not divide by the ranks
struct DataLoader {
  std::vector<int> tokens;
  int *inputs = nullptr, *targets = nullptr;
};
void dataloader_next_batch(DataLoader* loader) {
  std::mt19937 g(7);
  loader->tokens.resize(B * T + 1);
  for (int& t : loader->tokens) t = int(g() % unsigned(V));
  loader->inputs = loader->tokens.data();
  loader->targets = loader->inputs + 1;
}

GPT2 reference; // what one rank computes
void compare(GPT2* model) {
  float worst = std::fabs(model->mean_loss - reference.mean_loss);
  for (std::size_t i = 0; i < GPT2::num_parameters; ++i)
    worst = std::fmax(worst, std::fabs(model->grads_memory[i] - reference.grads_memory[i]));
  if (!(worst < 2e-6F)) {
    std::printf("loss %g against %g, worst difference %g\n", double(model->mean_loss), double(reference.mean_loss),
                double(worst));
    std::exit(1);
  }
}
void gpt2_update(GPT2* model, float, float, float, float, float, int) { compare(model); }

// SNIPPETS

int main() {
  DataLoader loader;
  dataloader_next_batch(&loader);
  train_step_of_one_rank(reference, loader.inputs, loader.targets, B, T);
  train(3);
  train(1);
}
