"""The forms that makers give their keys: the one place for them. A secret of another form is told by its place, if at all:
see `secretrules`."""

from collections.abc import Mapping
from typing import NamedTuple


class Form(NamedTuple):
    """A key by its maker's word: where one of `prefixes` begins, outside of a word, `pattern` matches it."""

    kind: str
    prefixes: tuple[str, ...]
    pattern: str
    tail: str = r"[A-Za-z0-9_-]*"


_HEX32 = r"[0-9a-fA-F]{32}(?![0-9A-Za-z])"
FORMS = (
    Form("aws-key", ("AKIA", "ASIA"), r"A[KS]IA[0-9A-Z]{16}(?![0-9A-Za-z])", ""),
    Form(
        "github-token",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
        r"gh[pousr]_[A-Za-z0-9]{36}",
        r"(?:[A-Za-z0-9_-]|\.(?=[A-Za-z0-9_-]))*",
    ),
    Form("github-token", ("github_pat_",), r"github_pat_[A-Za-z0-9_]{22}"),
    Form(
        "gitlab-token",
        ("glpat-", "gldt-", "glrt-", "glptt-", "glcbt-"),
        r"gl(?:pat|dt|rt|ptt|cbt)-[A-Za-z0-9_-]{20}",
    ),
    Form("slack-token", ("xox", "xapp-"), r"(?:xox[abeoprs]|xapp)-(?=[A-Za-z-]{0,9}[0-9])[A-Za-z0-9-]{15}"),
    Form("google-key", ("AIza",), r"AIza[A-Za-z0-9_-]{35}"),
    Form("google-key", ("GOCSPX-",), r"GOCSPX-[A-Za-z0-9_-]{28}"),
    Form("google-key", ("ya29.",), r"ya29\.[A-Za-z0-9_-]{24}"),
    Form(
        "stripe-key",
        ("sk_live_", "sk_test_", "rk_live_", "rk_test_"),
        r"[rs]k_(?:live|test)_[A-Za-z0-9]{16}",
    ),
    Form("webhook-secret", ("whsec_",), r"whsec_[A-Za-z0-9+/]{24}", r"[A-Za-z0-9+/=]*"),
    Form("model-key", ("sk-",), r"sk-(?=[A-Za-z_-]{0,24}[0-9])[A-Za-z0-9_-]{32}"),
    Form("model-key", ("gsk_", "xai-"), r"(?:gsk_|xai-)[A-Za-z0-9]{40}"),
    Form("model-key", ("nvapi-",), r"nvapi-[A-Za-z0-9_-]{40}"),
    Form("huggingface-token", ("hf_",), r"hf_[A-Za-z0-9]{30}"),
    Form("npm-token", ("npm_",), r"npm_[A-Za-z0-9]{36}"),
    Form("pypi-token", ("pypi-AgE",), r"pypi-AgE[A-Za-z0-9_-]{40}"),
    Form("docker-token", ("dckr_pat_",), r"dckr_pat_[A-Za-z0-9_-]{27}"),
    Form("sendgrid-key", ("SG.",), r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{40}"),
    Form("twilio-key", ("SK",), r"SK" + _HEX32, ""),
    Form("mailgun-key", ("key-",), r"key-" + _HEX32, ""),
    Form("databricks-token", ("dapi",), r"dapi[0-9a-f]{32}(?![0-9A-Za-z])", r"[0-9-]*"),
    Form(
        "digitalocean-token",
        ("dop_v1_", "doo_v1_", "dor_v1_"),
        r"do[opr]_v1_[0-9a-f]{64}",
    ),
    Form("shopify-token", ("shp",), r"shp(?:at|ca|pa|ss)_" + _HEX32, ""),
    Form("telegram-token", (":AA",), r"(?<=[0-9]{8}):AA[A-Za-z0-9_-]{33}(?![A-Za-z0-9_-])", ""),
    Form("vault-token", ("hvs.", "hvb."), r"hv[sb]\.[A-Za-z0-9_-]{24}"),
    Form("atlassian-token", ("ATATT3",), r"ATATT3[A-Za-z0-9_-]{32}", r"[A-Za-z0-9_=-]*"),
    Form("linear-key", ("lin_api_",), r"lin_api_[A-Za-z0-9]{40}"),
    Form("age-key", ("AGE-SECRET-KEY-1",), r"AGE-SECRET-KEY-1[0-9A-Z]{58}"),
    Form("nats-seed", ("SU", "SA", "SO"), r"S[AUO][A-Z2-7]{56}(?![0-9A-Za-z])", ""),
    Form(
        "jwt",
        ("eyJ",),
        r"eyJ[A-Za-z0-9_-]{17,560}\.eyJ[A-Za-z0-9_-]{10}",
        r"(?:[A-Za-z0-9_-]|\.(?=[A-Za-z0-9_-]))*",
    ),
)
SAYS: Mapping[str, str] = {
    "aws-key": "an AWS access key",
    "github-token": "a GitHub token",
    "gitlab-token": "a GitLab token",
    "slack-token": "a Slack token",
    "google-key": "a Google key",
    "stripe-key": "a Stripe key",
    "webhook-secret": "a webhook's secret",
    "model-key": "a key of a model's provider",
    "huggingface-token": "a Hugging Face token",
    "npm-token": "an npm token",
    "pypi-token": "a PyPI token",
    "docker-token": "a Docker token",
    "sendgrid-key": "a SendGrid key",
    "twilio-key": "a Twilio key",
    "mailgun-key": "a Mailgun key",
    "databricks-token": "a Databricks token",
    "digitalocean-token": "a DigitalOcean token",
    "shopify-token": "a Shopify token",
    "telegram-token": "a Telegram token",
    "vault-token": "a Vault token",
    "atlassian-token": "an Atlassian token",
    "linear-key": "a Linear key",
    "age-key": "an age key",
    "nats-seed": "a NATS seed",
    "jwt": "a JSON web token",
    "private-key": "a private key",
    "url-password": "a password in an address",
}
"""The kinds that can be told by their form alone, in words."""
