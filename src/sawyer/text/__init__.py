"""Text and tokens: templates, encoding, batches."""

from sawyer.text.batch import Batch, batches, pad_left, pad_right, whole_numbers
from sawyer.text.chat_template import fix_date, set_template, special_ids, template_text, turn_end
from sawyer.text.encoding import ConversationEncoder, PromptEncoder, Row, all_ends, id_count, plain_row, windows
from sawyer.text.rendering import find_unrenderable
from sawyer.text.text_pair import RewardEncoder, TextPairEncoder, conversation, limit_tokens
