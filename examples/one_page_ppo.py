"""PPO for language models on one page: what the RL stage of SAWYER does, written once more so that it can be read in one go.

    python examples/one_page_ppo.py        # a toy task, under a minute on one core; prints a table of what was learnt

Nothing of the package is imported. Its tests run this page and its RL stage from the same weights and seeds and demand the same
numbers.

The idea. A prompt x is given, the policy pi answers y = y_1 .. y_T, one token after another, and a judge gives the whole answer
one score S. For PPO an answer is an episode, a token is an action, and the state before token t is everything to its left. So
that the policy does not run away to whatever the judge overrates, each token pays for moving away from a reference: the model
that training started from. An update is: answer a batch of prompts, estimate for each token how much better it did than
expected, then take a few careful gradient steps. Four networks: policy pi; reference pi_ref, never trained; judge, here any
function of a prompt and an answer; value network V, which foretells what an unfinished answer will earn.

There is no padding in the formulas: what an answer has for each token is a vector as long as the answer, and a mean over tokens
is the mean of such vectors laid end to end. What the package has and the page has not: guards, evaluation on held-out prompts,
the choice of the best model, resuming, a fast sampler.

Sources
  [Ziegler]  Fine-Tuning Language Models from Human Preferences, 2019, arXiv 1909.08593
  [Stiennon] Learning to summarize from human feedback, 2020, arXiv 2009.01325
  [PPO]      Schulman et al., Proximal Policy Optimization Algorithms, 2017, arXiv 1707.06347
  [GAE]      Schulman et al., High-Dimensional Continuous Control Using Generalized Advantage Estimation, 2015, arXiv 1506.02438
  [N+]       Huang et al., The N+ Implementation Details of RLHF with PPO, 2024, arXiv 2403.17031
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Rows = Sequence[Sequence[int]]  # token ids
ScoreAnswer = Callable[[Sequence[int], Sequence[int]], float]  # a prompt's ids, its answer's -> score, higher is better


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every number there is to choose. The defaults suit the toy; a large model wants learning rates near 3e-6 [N+]."""

    eos: int  # the token that ends an answer
    never: tuple[int, ...] = ()  # tokens that are not to be sampled, such as padding
    max_new_tokens: int = 6
    temperature: float = 1.0  # tau: of sampling, and of every log-prob
    updates: int = 50  # in all, for the learning rate's schedule
    batch_size: int = 64  # answers an update
    epochs: int = 2  # passes over an update's answers
    num_minibatches: int = 4  # gradient steps a pass
    learning_rate: float = 3e-3
    value_learning_rate: float = 3e-3
    max_norm: float = 1.0  # longer gradients are shortened to this
    kl_coefficient: float = 0.05  # beta: what a nat of KL costs, in the score's unit
    kl_target: float | None = None  # nats an answer; where one is given, beta is steered towards it
    kl_horizon: float = 10_000.0  # answers over which the steering acts
    reward_clip: float | None = None  # scores are held within +- this
    missing_eos_penalty: float = 1.0  # taken from the score of an answer that did not end by itself
    gamma: float = 1.0  # discount a token
    gae_lambda: float = 0.95  # lambda: how far ahead GAE trusts rewards rather than values
    clip_range: float = 0.2  # eps: how far pi / pi_old may move before its gradient stops
    value_clip_range: float = 0.2  # likewise for V, in the score's unit


@dataclass
class Episode:
    """One answer and what is known of it. The vectors have an entry for each of its tokens, EOS included."""

    prompt: list[int]
    answer: list[int]
    score: float  # the judge's, before clip and penalty
    old: Tensor  # log pi_old(y_t | x, y_<t): the policy's before the update
    ref: Tensor  # log pi_ref(y_t | x, y_<t)
    old_values: Tensor  # V of the state before each token
    rewards: Tensor  # r_t: the KL's price, and the score on the last token
    returns: Tensor  # R_t = A_t + V_t, with A before whitening: what V should have said
    advantages: Tensor  # A_t, whitened


# 1. Two ways to read a sequence ---------------------------------------------------------------------------------------------


def pad(rows: Rows) -> Tensor:
    """(B, T) ids, zeros at the right. The networks are causal: what stands behind a row's last token cannot change it."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])


def at_answers(table: Tensor, prompts: Rows, answers: Rows) -> list[Tensor]:
    """Of a (B, T - 1, ...) `table` whose entry t belongs to token t + 1: the entries of each row's answer.

    The first token of an answer is chosen in the state after the prompt's last token, so a row starts at len(prompt) - 1.
    """
    return [row[len(x) - 1 : len(x) - 1 + len(y)] for row, x, y in zip(table, prompts, answers, strict=True)]


def logprobs(policy: nn.Module, prompts: Rows, answers: Rows, temperature: float) -> list[Tensor]:
    """log pi(y_t | x, y_<t) = log softmax(logits / tau)[y_t], with the temperature that the answers were sampled at.

    At another temperature this would be another policy than the one that acted, and pi / pi_old would not start at 1 [N+].
    """
    ids = pad([[*x, *y] for x, y in zip(prompts, answers, strict=True)])
    logits = policy(input_ids=ids, use_cache=False).logits[:, :-1] / temperature
    return at_answers(torch.log_softmax(logits, dim=-1).gather(-1, ids[:, 1:, None])[..., 0], prompts, answers)


class Value(nn.Module):
    """V: a transformer of its own with one number at each token. [Stiennon] starts it from the reward model.

    Apart from the policy, so that no coefficient has to weigh the two losses. The head starts at zero: with scores in standard
    units, 0 is what the first policy earns on average; a random head would call tokens good or bad for no reason.
    """

    def __init__(self, trunk: nn.Module, width: int) -> None:
        super().__init__()
        self.trunk, self.head = trunk, nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, prompts: Rows, answers: Rows) -> list[Tensor]:
        """V of the state in which each token of the answer is chosen: read at the token before it."""
        ids = pad([[*x, *y] for x, y in zip(prompts, answers, strict=True)])
        hidden = self.trunk(input_ids=ids, use_cache=False).last_hidden_state
        return at_answers(self.head(hidden)[:, :-1, 0], prompts, answers)


# 2. Act -----------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def sample(policy: nn.Module, prompts: Rows, s: Settings, draw: torch.Generator) -> list[list[int]]:
    """Answers by pure sampling: no top-k, no top-p, else what is sampled is not the pi whose log-probs are trained.

    One uniform number u for each token: the token drawn is the first whose cumulative probability exceeds u.
    """
    uniforms = torch.rand(len(prompts), s.max_new_tokens, generator=draw, dtype=torch.float64)
    answers: list[list[int]] = [[] for _ in prompts]
    for step in range(s.max_new_tokens):
        active = [i for i, answer in enumerate(answers) if s.eos not in answer]
        if not active:
            break
        rows = [[*prompts[i], *answers[i]] for i in active]
        last = torch.tensor([len(row) - 1 for row in rows])
        logits = policy(input_ids=pad(rows), use_cache=False).logits[torch.arange(len(rows)), last]
        chances = torch.softmax((logits / s.temperature).double(), dim=-1)
        chances[:, list(s.never)] = 0
        cumulative = chances.cumsum(1)
        tokens = torch.searchsorted(cumulative, uniforms[active, step, None] * cumulative[:, -1:], right=True)
        for i, token in zip(active, tokens[:, 0].tolist(), strict=True):
            answers[i].append(token)
    return answers


# 3. What each token earned ----------------------------------------------------------------------------------------------------


def token_rewards(score: float, ended: bool, old: Tensor, ref: Tensor, beta: float, s: Settings) -> Tensor:
    """r_t = -beta (log pi_old(y_t) - log pi_ref(y_t)), and the score S at the last token.     [Ziegler, eq. 2], [Stiennon, 3.4]

    Summed over an answer, the difference of log-probs is one sample of KL(pi || pi_ref). An answer that the length limit cut
    short pays for it [N+], after the clip, which would swallow the penalty.
    """
    score = score if s.reward_clip is None else max(-s.reward_clip, min(s.reward_clip, score))
    score = score if ended else score - s.missing_eos_penalty
    rewards = -beta * (old - ref)
    rewards[-1] += score
    return rewards


def gae(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
    """A_t = delta_t + gamma lam A_{t+1},  delta_t = r_t + gamma V_{t+1} - V_t.                                [GAE, eq. 11-16]

    delta_t is what token t brought beyond what V expected; lam = 0 trusts V alone, lam = 1 the rewards alone. After the last
    token nothing is to come: V = A = 0 there.
    """
    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = torch.zeros(())
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + gamma * next_value - values[t]
        advantages[t] = next_advantage = delta + gamma * lam * next_advantage
        next_value = values[t]
    return advantages


def whiten(advantages: list[Tensor]) -> list[Tensor]:
    """(A - mean) / sqrt(variance + 1e-8) over all tokens of the batch: the scores' scale is none of the step's.         [N+]"""
    tokens = torch.cat(advantages)
    mean, variance = tokens.mean(), tokens.var(correction=0)
    return [(a - mean) / torch.sqrt(variance + 1e-8) for a in advantages]


# 4. Learn ---------------------------------------------------------------------------------------------------------------------


def policy_loss(new: Tensor, old: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Mean of max(-A rho, -A clip(rho, 1 - eps, 1 + eps)),  rho = pi / pi_old.                                     [PPO, eq. 7]

    At rho = 1 its gradient is that of -A log pi. A token whose probability has already moved by eps as A asks learns no more;
    the max keeps the gradient where it has moved the wrong way.
    """
    rho = torch.exp(new - old)
    return torch.maximum(-advantages * rho, -advantages * rho.clamp(1 - clip, 1 + clip)).mean()


def value_loss(new: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Mean of 0.5 max((V - R)^2, (clip(V, V_old - eps, V_old + eps) - R)^2).                  [openai/baselines ppo2], [N+]"""
    near_old = old + (new - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((new - returns) ** 2, (near_old - returns) ** 2).mean()


class OptimizerStep:
    """A network, AdamW with eps 1e-5 and no weight decay, a learning rate that falls linearly, clipped gradients.          [N+]

    With Adam's usual eps of 1e-8 weights that have hardly had a gradient yet are moved as far as any other.
    """

    def __init__(self, net: nn.Module, learning_rate: float, s: Settings) -> None:
        self.net, self.learning_rate, self.max_norm = net, learning_rate, s.max_norm
        self.adam = torch.optim.AdamW(net.parameters(), lr=learning_rate, eps=1e-5, weight_decay=0.0)
        self.done, self.steps = 0, s.updates * s.epochs * s.num_minibatches

    def step(self, loss: Tensor) -> float:
        """One gradient step down `loss`; returns the gradient's length before it was clipped."""
        self.adam.zero_grad()
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.net.parameters(), self.max_norm))
        self.adam.param_groups[0]["lr"] = self.learning_rate * (1 - self.done / self.steps)
        self.adam.step()
        self.done += 1
        return norm


def learn(
    episodes: list[Episode], policy: OptimizerStep, value: OptimizerStep, s: Settings, orders: Sequence[Tensor]
) -> dict[str, float]:
    """Several passes over the episodes, each in an order of its own; the means over all tokens of what went on."""
    tokens, sums = 0, dict.fromkeys(("policy_loss", "value_loss", "clip_fraction", "approx_kl", "ratio"), 0.0)
    norms: dict[str, list[float]] = {"grad_norm": [], "value_grad_norm": []}
    for order in orders:
        for chosen in order.split(len(episodes) // s.num_minibatches):
            batch = [episodes[i] for i in chosen]
            prompts, answers = [e.prompt for e in batch], [e.answer for e in batch]
            old, advantages = torch.cat([e.old for e in batch]), torch.cat([e.advantages for e in batch])
            old_values, returns = torch.cat([e.old_values for e in batch]), torch.cat([e.returns for e in batch])
            new = torch.cat(logprobs(policy.net, prompts, answers, s.temperature))
            loss = policy_loss(new, old, advantages, s.clip_range)
            error = value_loss(torch.cat(value.net(prompts, answers)), old_values, returns, s.value_clip_range)
            norms["grad_norm"].append(policy.step(loss))
            norms["value_grad_norm"].append(value.step(error))
            rho = torch.exp(new.detach() - old)
            beyond = advantages * (rho - 1) > s.clip_range * advantages.abs()  # these tokens learn no more
            seen = (loss.detach(), error.detach(), beyond.double().mean(), (rho - 1 - rho.log()).mean(), rho.mean())
            for name, mean in zip(sums, seen, strict=True):
                sums[name] += float(mean) * len(new)
            tokens += len(new)
    figures = {name: total / tokens for name, total in sums.items()}
    return figures | {name: sum(values) / len(values) for name, values in norms.items()}


def next_beta(beta: float, kl: float, answers: int, s: Settings) -> float:
    """e = clip(KL / target - 1, -0.2, 0.2);  beta <- beta (1 + e n / horizon), n answers seen.               [Ziegler, 2.2]"""
    if s.kl_target is None:
        return beta
    return beta * (1 + max(-0.2, min(0.2, kl / s.kl_target - 1)) * answers / s.kl_horizon)


# 5. All of it -----------------------------------------------------------------------------------------------------------------


class Ppo:
    """The networks and beta. Policy and value network are trained in place; the reference is the policy as it is given."""

    def __init__(self, policy: nn.Module, value: Value, judge: ScoreAnswer, s: Settings) -> None:
        self.policy, self.value = OptimizerStep(policy, s.learning_rate, s), OptimizerStep(value, s.value_learning_rate, s)
        self.reference, self.judge, self.beta, self.s = copy.deepcopy(policy), judge, s.kl_coefficient, s

    @torch.no_grad()
    def collect(self, prompts: Rows, draw: torch.Generator) -> list[Episode]:
        """Answer the prompts and work out what each token was worth. Nothing here changes a weight."""
        s, policy = self.s, self.policy.net
        answers = sample(policy, prompts, s, draw)
        olds, refs = (logprobs(model, prompts, answers, s.temperature) for model in (policy, self.reference))
        episodes = []
        for x, y, old, ref, values in zip(prompts, answers, olds, refs, self.value.net(prompts, answers), strict=True):
            score = self.judge(x, y)
            rewards = token_rewards(score, y[-1] == s.eos, old, ref, self.beta, s)
            advantages = gae(rewards, values, s.gamma, s.gae_lambda)
            episodes.append(Episode(list(x), y, score, old, ref, values, rewards, advantages + values, advantages))
        for e, white in zip(episodes, whiten([e.advantages for e in episodes]), strict=True):
            e.advantages = white
        return episodes

    def update(self, prompts: Rows, draw: torch.Generator, orders: Sequence[Tensor]) -> tuple[list[Episode], dict[str, float]]:
        """Answer, estimate, learn, steer. `draw` decides the answers, `orders` (one for each epoch) the minibatches."""
        episodes = self.collect(prompts, draw)
        figures = learn(episodes, self.policy, self.value, self.s, orders)
        count = len(episodes)
        figures |= {
            "score": sum(e.score for e in episodes) / count,
            "reward": sum(float(e.rewards.sum()) for e in episodes) / count,
            "kl": sum(float((e.old - e.ref).sum()) for e in episodes) / count,  # nats an answer: a sum over its tokens
            "length": sum(len(e.answer) for e in episodes) / count,
            "eos_rate": sum(e.answer[-1] == self.s.eos for e in episodes) / count,
        }
        self.beta = next_beta(self.beta, figures["kl"], count, self.s)
        return episodes, figures


# 6. A toy: say the letter you are given three times, then stop ----------------------------------------------------------------

LETTERS = "abcdefgh"  # tokens 1 to 8; token 0 ends an answer


def points(prompt: Sequence[int], answer: Sequence[int]) -> float:
    """The judge: one for each of the first three tokens that is the prompt's letter, less a half for each letter after them."""
    return sum(token == prompt[0] for token in answer[:3]) - 0.5 * sum(token != 0 for token in answer[3:])


def main() -> None:
    """Train a tiny GPT-2 that knows nothing, and show what it says before and after."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=9, n_positions=8, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    policy = GPT2LMHeadModel(config).eval()  # eval: no dropout anywhere, or pi / pi_old would not start at 1
    s, draw, prompts = Settings(eos=0), torch.Generator().manual_seed(0), [[1 + i % len(LETTERS)] for i in range(256)]
    # Scores in standard units of the first policy's own answers: then penalties and beta mean the same for every judge.
    first = sample(policy, prompts, s, draw)
    scores = torch.tensor([points(x, y) for x, y in zip(prompts, first, strict=True)])
    shift, scale = float(scores.mean()), float(scores.std())
    value = Value(copy.deepcopy(policy.transformer), config.n_embd)
    run = Ppo(policy, value, lambda x, y: (points(x, y) - shift) / scale, s)

    print("update   score   points of 3   KL, nats   length   ended by itself   value loss")
    for number in range(s.updates):
        chosen = torch.randint(len(prompts), (s.batch_size,), generator=draw)
        orders = [torch.randperm(s.batch_size, generator=draw) for _ in range(s.epochs)]
        _, f = run.update([prompts[i] for i in chosen], draw, orders)
        if number % 7 == 0 or number == s.updates - 1:
            row = f"{number:6}{f['score']:8.2f}{f['score'] * scale + shift:14.2f}{f['kl']:11.2f}{f['length']:9.2f}"
            print(f"{row}{f['eos_rate']:18.0%}{f['value_loss']:13.3f}")
    for who, model in (("before", run.reference), ("after", policy)):
        answers = sample(model, prompts[:4], s, torch.Generator().manual_seed(1))
        texts = ["".join((".", *LETTERS)[token] for token in (*x, *y)) for x, y in zip(prompts, answers, strict=False)]
        print(f"{who:7}", "   ".join(f"{text[0]}: {text[1:]}" for text in texts))


if __name__ == "__main__":
    main()
