/* A small trainer with the function names, signatures and habits of llm.c's train_gpt2.c, written for the tests of this folder:
   what sequence_parallel.py makes of it is compared with itself. One matrix and one attention a layer, SGD, no files but tokens. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char* setting(const char* name, const char* otherwise) {
    const char* value = getenv(name);
    return value ? value : otherwise;
}

// ---- tokens, from a file of ints ---------------------------------------------------------------------------------------------------

typedef struct {
    FILE* file;
    int B, T;
    int *inputs, *targets;
} DataLoader;

void dataloader_init(DataLoader* loader, const char* path, int B, int T) {
    loader->file = fopen(path, "rb");
    if (loader->file == NULL) { printf("no file %s\n", path); exit(1); }
    loader->B = B;
    loader->T = T;
    loader->inputs = (int*)malloc((B * T + 1) * sizeof(int));
    loader->targets = loader->inputs + 1;
}
void dataloader_reset(DataLoader* loader) { rewind(loader->file); }
void dataloader_next_batch(DataLoader* loader) {
    size_t want = (size_t)(loader->B * loader->T) + 1;
    if (fread(loader->inputs, sizeof(int), want, loader->file) != want) { printf("the tokens end\n"); exit(1); }
    fseek(loader->file, -(long)sizeof(int), SEEK_CUR);
}

typedef struct {
    int init_ok;
    int eot_token;
} Tokenizer;
const char* tokenizer_decode(Tokenizer* tokenizer, int token) { return tokenizer->init_ok && token % 2 ? "odd " : "even "; }
void safe_printf(const char* piece) { printf("%s", piece); }

// ---- layers ------------------------------------------------------------------------------------------------------------------------

void encoder_forward(float* out, int* inp, float* wte, float* wpe, int B, int T, int C) {
    for (int b = 0; b < B; b++) {
        for (int t = 0; t < T; t++) {
            float* wpe_t = wpe + t * C;
            for (int c = 0; c < C; c++) { out[(b * T + t) * C + c] = wte[inp[b * T + t] * C + c] + wpe_t[c]; }
        }
    }
}
void encoder_backward(float* dwte, float* dwpe, float* dout, int* inp, int B, int T, int C) {
    for (int b = 0; b < B; b++) {
        for (int t = 0; t < T; t++) {
            float* dwpe_t = dwpe + t * C;
            for (int c = 0; c < C; c++) {
                float d = dout[(b * T + t) * C + c];
                dwte[inp[b * T + t] * C + c] += d;
                dwpe_t[c] += d;
            }
        }
    }
}

// out (rows, OC) = inp (rows, C) weight^T, weight (OC, C); and what its gradients add
void matmul_forward(float* out, float* inp, float* weight, int rows, int C, int OC) {
    for (int r = 0; r < rows; r++) {
        for (int o = 0; o < OC; o++) {
            float sum = 0.0f;
            for (int c = 0; c < C; c++) { sum += inp[r * C + c] * weight[o * C + c]; }
            out[r * OC + o] = sum;
        }
    }
}
void matmul_backward(float* dinp, float* dweight, float* dout, float* inp, float* weight, int rows, int C, int OC) {
    for (int r = 0; r < rows; r++) {
        for (int o = 0; o < OC; o++) {
            float d = dout[r * OC + o];
            for (int c = 0; c < C; c++) {
                dinp[r * C + c] += d * weight[o * C + c];
                dweight[o * C + c] += d * inp[r * C + c];
            }
        }
    }
}

// inp (B, T, 3C) holds queries, keys and values; preatt and att are (B, NH, T, T)
void attention_forward(float* out, float* preatt, float* att, float* inp, int B, int T, int C, int NH) {
    int hs = C / NH;
    for (int i = 0; i < B * NH * T; i++) { // b, h, t
        int b = i / (NH * T), h = i / T % NH, t = i % T;
        float *s = preatt + i * T, *p = att + i * T, *rows = inp + b * T * 3 * C + h * hs, sum = 0.0f;
        for (int u = 0; u <= t; u++) {
            s[u] = 0.0f;
            for (int c = 0; c < hs; c++) { s[u] += rows[t * 3 * C + c] * rows[u * 3 * C + C + c] / sqrtf((float)hs); }
            sum += p[u] = expf(s[u]);
        }
        for (int c = 0; c < hs; c++) {
            float o = 0.0f;
            for (int u = 0; u <= t; u++) { o += p[u] / sum * rows[u * 3 * C + 2 * C + c]; }
            out[(b * T + t) * C + h * hs + c] = o;
        }
        for (int u = 0; u <= t; u++) { p[u] /= sum; }
    }
}
void attention_backward(float* dinp, float* dpreatt, float* datt, float* dout, float* inp, float* att, int B, int T, int C, int NH) {
    int hs = C / NH;
    for (int i = 0; i < B * NH * T; i++) { // b, h, t
        int b = i / (NH * T), h = i / T % NH, t = i % T, at = b * T * 3 * C + h * hs;
        float *rows = inp + at, *drows = dinp + at, *d = dout + (b * T + t) * C + h * hs, *p = att + i * T, mean = 0.0f;
        for (int u = 0; u <= t; u++) {
            datt[i * T + u] = 0.0f;
            for (int c = 0; c < hs; c++) {
                datt[i * T + u] += rows[u * 3 * C + 2 * C + c] * d[c];
                drows[u * 3 * C + 2 * C + c] += p[u] * d[c];
            }
            mean += p[u] * datt[i * T + u];
        }
        for (int u = 0; u <= t; u++) {
            float ds = dpreatt[i * T + u] = p[u] * (datt[i * T + u] - mean) / sqrtf((float)hs);
            for (int c = 0; c < hs; c++) {
                drows[t * 3 * C + c] += ds * rows[u * 3 * C + C + c];
                drows[u * 3 * C + C + c] += ds * rows[t * 3 * C + c];
            }
        }
    }
}

void sum_forward(float* out, float* a, float* b, size_t count) {
    for (size_t i = 0; i < count; i++) { out[i] = a[i] + b[i]; }
}
void sum_backward(float* da, float* db, float* dout, size_t count) {
    for (size_t i = 0; i < count; i++) { da[i] += dout[i]; db[i] += dout[i]; }
}

// ---- the model ---------------------------------------------------------------------------------------------------------------------

typedef struct {
    int max_seq_len, vocab_size, padded_vocab_size, num_layers, num_heads, channels;
} GPT2Config;

#define NUM_PARAMETER_TENSORS 3
typedef struct {
    float *wte, *wpe, *qkvw; // (V, C), (maxT, C), (L, 3C, C)
} ParameterTensors;

#define NUM_ACTIVATION_TENSORS 8
typedef struct {
    float *encoded, *qkv, *atty, *residual3, *probs, *losses; // (B, T, C), (L, B, T, 3C), (L, B, T, C) twice, (B, T, V), (B, T)
    float *preatt, *att;                                      // (L, B, NH, T, T)
} ActivationTensors;

typedef struct {
    GPT2Config config;
    ParameterTensors params, grads;
    float *params_memory, *grads_memory;
    size_t param_sizes[NUM_PARAMETER_TENSORS], num_parameters;
    ActivationTensors acts, grads_acts;
    float *acts_memory, *grads_acts_memory;
    size_t act_sizes[NUM_ACTIVATION_TENSORS], num_activations;
    int batch_size, seq_len;
    int *inputs, *targets;
    float mean_loss;
} GPT2;

void fill_in_activation_sizes(size_t* act_sizes, GPT2Config config, int B, int T) {
    size_t C = config.channels, NH = config.num_heads, L = config.num_layers;
    if (C % NH != 0) { printf("%zu channels for %zu heads\n", C, NH); exit(1); }
    act_sizes[0] = B * T * C; // encoded
    act_sizes[1] = L * B * T * 3 * C; // qkv
    act_sizes[2] = L * B * T * C; // atty
    act_sizes[3] = L * B * T * C; // residual3
    act_sizes[4] = B * T * config.padded_vocab_size; // probs
    act_sizes[5] = B * T; // losses
    act_sizes[6] = L * B * NH * T * T; // preatt
    act_sizes[7] = L * B * NH * T * T; // att
}

float* allocate(float*** tensors, size_t* sizes, int count, size_t* total) {
    *total = 0;
    for (int i = 0; i < count; i++) { *total += sizes[i]; }
    float* memory = (float*)calloc(*total + 1, sizeof(float));
    float* at = memory;
    for (int i = 0; i < count; at += sizes[i++]) { *tensors[i] = at; }
    return memory;
}
float* allocate_parameters(ParameterTensors* p, size_t* sizes, size_t* total) {
    float** tensors[] = {&p->wte, &p->wpe, &p->qkvw};
    return allocate(tensors, sizes, NUM_PARAMETER_TENSORS, total);
}
float* allocate_activations(ActivationTensors* a, size_t* sizes, size_t* total) {
    float** tensors[] = {&a->encoded, &a->qkv, &a->atty, &a->residual3, &a->probs, &a->losses, &a->preatt, &a->att};
    return allocate(tensors, sizes, NUM_ACTIVATION_TENSORS, total);
}

void gpt2_build_from_checkpoint(GPT2 *model, const char* checkpoint_path) {
    (void)checkpoint_path; // the same numbers on every rank, from a generator
    memset(model, 0, sizeof *model);
    model->config.max_seq_len = 6000; // more parameters than sum_gradients takes at once
    model->config.vocab_size = 17;
    model->config.padded_vocab_size = 20;
    model->config.num_layers = 2;
    model->config.num_heads = 3;
    model->config.channels = 12;
    size_t V = model->config.padded_vocab_size, C = model->config.channels, L = model->config.num_layers;
    printf("[GPT-2]\n");
    printf("num_layers: %zu\n", L);
    model->param_sizes[0] = V * C;
    model->param_sizes[1] = model->config.max_seq_len * C;
    model->param_sizes[2] = L * 3 * C * C;
    model->params_memory = allocate_parameters(&model->params, model->param_sizes, &model->num_parameters);
    uint32_t state = 1;
    for (size_t i = 0; i < model->num_parameters; i++) {
        state = state * 1664525u + 1013904223u;
        model->params_memory[i] = ((float)(state >> 8) / 8388608.0f - 1.0f) * (i < V * C ? 1.0f : 0.7f);
    }
    model->mean_loss = -1.0f;
}

void gpt2_forward(GPT2 *model, int* inputs, int* targets, size_t B, size_t T) {
    GPT2Config sizes = model->config;
    size_t V = sizes.vocab_size, Vp = sizes.padded_vocab_size, L = sizes.num_layers, NH = sizes.num_heads, C = sizes.channels;
    if (model->acts_memory == NULL) {
        model->batch_size = (int)B;
        model->seq_len = (int)T;
        fill_in_activation_sizes(model->act_sizes, model->config, (int)B, (int)T);
        model->acts_memory = allocate_activations(&model->acts, model->act_sizes, &model->num_activations);
        printf("num_activations: %zu\n", model->num_activations);
        model->inputs = (int*)malloc(B * T * sizeof(int));
        model->targets = (int*)malloc(B * T * sizeof(int));
    } else if ((int)B != model->batch_size || (int)T != model->seq_len) {
        printf("the model has other B and T\n");
        exit(1);
    }
    memcpy(model->inputs, inputs, B * T * sizeof(int));
    if (targets != NULL) { memcpy(model->targets, targets, B * T * sizeof(int)); }

    ParameterTensors params = model->params;
    ActivationTensors acts = model->acts;
    float* residual = acts.encoded;
    encoder_forward(acts.encoded, inputs, params.wte, params.wpe, B, T, C);
    for (size_t l = 0; l < L; l++) {
        float* l_qkv = acts.qkv + l * B * T * 3*C;
        float* l_atty = acts.atty + l * B * T * C;
        float* l_preatt = acts.preatt + l * B * NH * T * T;
        float* l_att = acts.att + l * B * NH * T * T;
        float* l_residual3 = acts.residual3 + l * B * T * C;
        matmul_forward(l_qkv, residual, params.qkvw + l * 3*C * C, B * T, C, 3*C);
        attention_forward(l_atty, l_preatt, l_att, l_qkv, B, T, C, NH);
        sum_forward(l_residual3, residual, l_atty, B*T*C);
        residual = l_residual3;
    }
    matmul_forward(acts.probs, residual, params.wte, B * T, C, Vp);
    for (size_t r = 0; r < B * T; r++) {
        float *p = acts.probs + r * Vp, sum = 0.0f;
        for (size_t v = 0; v < V; v++) { sum += p[v] = expf(p[v]); }
        for (size_t v = 0; v < Vp; v++) { p[v] = v < V ? p[v] / sum : 0.0f; }
    }
    if (targets != NULL) {
        for (size_t r = 0; r < B * T; r++) { acts.losses[r] = -logf(acts.probs[r * Vp + targets[r]]); }
        float mean_loss = 0.0f;
        for (int i=0; i<B*T; i++) { mean_loss += model->acts.losses[i]; }
        mean_loss /= B*T;
        model->mean_loss = mean_loss;
    } else {
        model->mean_loss = -1.0f;
    }
}

void gpt2_zero_grad(GPT2 *model) {
    if (model->grads_memory != NULL) { memset(model->grads_memory, 0, model->num_parameters * sizeof(float)); }
    if (model->grads_acts_memory != NULL) { memset(model->grads_acts_memory, 0, model->num_activations * sizeof(float)); }
}

void gpt2_backward(GPT2 *model) {
    if (model->mean_loss == -1.0f) {
        printf("gradients of what? there is no loss\n");
        exit(1);
    }
    if (model->grads_memory == NULL) {
        model->grads_memory = allocate_parameters(&model->grads, model->param_sizes, &model->num_parameters);
        model->grads_acts_memory = allocate_activations(&model->grads_acts, model->act_sizes, &model->num_activations);
    }
    size_t B = model->batch_size, T = model->seq_len;
    GPT2Config sizes = model->config;
    size_t V = sizes.vocab_size, Vp = sizes.padded_vocab_size, L = sizes.num_layers, NH = sizes.num_heads, C = sizes.channels;
    ParameterTensors params = model->params, grads = model->grads;
    ActivationTensors acts = model->acts, grads_acts = model->grads_acts;

    float dloss_mean = 1.0f / (B*T);
    for (int i = 0; i < B*T; i++) { grads_acts.losses[i] = dloss_mean; }
    for (size_t r = 0; r < B * T; r++) {
        for (size_t v = 0; v < V; v++) {
            float indicator = (int)v == model->targets[r] ? 1.0f : 0.0f;
            grads_acts.probs[r * Vp + v] = (acts.probs[r * Vp + v] - indicator) * grads_acts.losses[r]; // of the logits
        }
    }
    matmul_backward(grads_acts.residual3 + (L-1) * B * T * C, grads.wte, grads_acts.probs, acts.residual3 + (L-1) * B * T * C,
                    params.wte, B * T, C, Vp);
    for (int l = (int)L - 1; l >= 0; l--) {
        float* residual = l == 0 ? acts.encoded : acts.residual3 + (l-1) * B * T * C;
        float* dresidual = l == 0 ? grads_acts.encoded : grads_acts.residual3 + (l-1) * B * T * C;
        float* l_qkv = acts.qkv + l * B * T * 3*C;
        float* l_atty = acts.atty + l * B * T * C;
        float* l_att = acts.att + l * B * NH * T * T;
        float* dl_qkv = grads_acts.qkv + l * B * T * 3*C;
        float* dl_atty = grads_acts.atty + l * B * T * C;
        float* dl_preatt = grads_acts.preatt + l * B * NH * T * T;
        float* dl_att = grads_acts.att + l * B * NH * T * T;
        (void)l_atty; // llm.c hands it to the matrix behind attention; sp's backward reads it
        sum_backward(dresidual, dl_atty, grads_acts.residual3 + l * B * T * C, B*T*C);
        attention_backward(dl_qkv, dl_preatt, dl_att, dl_atty, l_qkv, l_att, B, T, C, NH);
        matmul_backward(dresidual, grads.qkvw + l * 3*C * C, dl_qkv, residual, params.qkvw + l * 3*C * C, B * T, C, 3*C);
    }
    encoder_backward(grads.wte, grads.wpe, grads_acts.encoded, model->inputs, B, T, C);
}

// Plain descent: unlike AdamW it notices a gradient that is P times too large.
void gpt2_update(GPT2 *model, float learning_rate) {
    for (size_t i = 0; i < model->num_parameters; i++) { model->params_memory[i] -= learning_rate * model->grads_memory[i]; }
}

// ---- training ----------------------------------------------------------------------------------------------------------------------

int main() {
    GPT2 model;
    gpt2_build_from_checkpoint(&model, "");
    int B = atoi(setting("ROWS", "4"));
    int T = atoi(setting("LENGTH", "24")); // must be <= maxT
    DataLoader train_loader, val_loader;
    dataloader_init(&train_loader, setting("TOKENS", "tokens.bin"), B, T);
    dataloader_init(&val_loader, setting("TOKENS", "tokens.bin"), B, T);
    Tokenizer tokenizer = {1, 16};
    int* gen_tokens = (int*)malloc(B * T * sizeof(int));
    uint32_t coins = 1337;

    for (int step = 0; step <= 10; step++) {
        if (step % 5 == 0) {
            dataloader_reset(&val_loader);
            dataloader_next_batch(&val_loader);
            gpt2_forward(&model, val_loader.inputs, val_loader.targets, B, T);
            printf("val loss %f\n", model.mean_loss);
        }
        if (step == 10) {
            for (int i = 0; i < B * T; i++) { gen_tokens[i] = tokenizer.eot_token; }
            printf("generating:\n---\n");
            for (int t = 1; t < T; t++) {
                gpt2_forward(&model, gen_tokens, NULL, B, T);
                float* probs = model.acts.probs + (t-1) * model.config.padded_vocab_size;
                coins = coins * 1664525u + 1013904223u;
                float coin = (float)(coins >> 8) / 16777216.0f, cdf = 0.0f;
                int next_token = 0;
                while (next_token < model.config.vocab_size - 1 && coin >= (cdf += probs[next_token])) { next_token++; }
                gen_tokens[t] = next_token;
                printf("%d ", next_token);
                const char* token_str = tokenizer_decode(&tokenizer, next_token);
                safe_printf(token_str);
            }
            printf("\n---\n");
        }
        dataloader_next_batch(&train_loader);
        gpt2_forward(&model, train_loader.inputs, train_loader.targets, B, T);
        gpt2_zero_grad(&model);
        gpt2_backward(&model);
        gpt2_update(&model, 0.05f);
        float* gradient = model.grads_memory;
        for (int i = 0; i < NUM_PARAMETER_TENSORS; gradient += model.param_sizes[i++]) {
            double sum = 0;
            for (size_t j = 0; j < model.param_sizes[i]; j++) { sum += gradient[j] * gradient[j] * (double)(1 + j % 7); }
            printf("gradient %d %.8f\n", i, sqrt(sum));
        }
        printf("step %d: train loss %f\n", step, model.mean_loss);
    }
    return 0;
}
