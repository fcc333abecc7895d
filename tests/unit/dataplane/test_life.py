"""The life of a flow: every state and every kind of packet, and what becomes of both."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from unit.dataplane.lives import CLIENTS, SERVERS, SITUATIONS, End
from wharfinger_dataplane._engine import HOOKS, REASONS
from wharfinger_dataplane._records import FlowState

ARCHITECTURE = Path(__file__).parents[3] / "docs" / "architecture.md"
STAYS, AND, NOTHING = "stays", "and ", "nothing"
TABLE = """\
| state | hook | packet | then | reason |
| --- | --- | --- | --- | --- |
| nothing, at the client | from_pod | SYN, other SYN | CLIENT_OPENING | client_syn |
| nothing, at the client | from_pod | else | stays | no_record |
| nothing, at the client | to_pod | SYN+ACK from X, other SYN+ACK from X | stays | client_resets |
| nothing, at the client | to_pod | else | stays | not_ours |
| nothing, at the client | from_net | SYN+ACK from X, other SYN+ACK from X | stays | net_client |
| nothing, at the client | from_net | else | stays | not_ours |
| CLIENT_CLAIMED | to_pod | any | stays | not_ours |
| CLIENT_CLAIMED | from_net | any | stays | not_ours |
| CLIENT_OPENING | from_pod | SYN, other SYN | stays | client_syn |
| CLIENT_OPENING | from_pod | RST | stays | client_sends_unredirected |
| CLIENT_OPENING | from_pod | else | CLIENT_UNAWARE | no_record |
| CLIENT_OPENING | to_pod | SYN+ACK from X | CLIENT_JOINING | client_redirected |
| CLIENT_OPENING | to_pod | other SYN+ACK from X | stays | client_resets |
| CLIENT_OPENING | to_pod | RST from X | nothing | client_receives |
| CLIENT_OPENING | to_pod | else | stays | not_ours |
| CLIENT_OPENING | from_net | SYN+ACK from X, other SYN+ACK from X, RST from X | stays | net_client |
| CLIENT_OPENING | from_net | else | stays | not_ours |
| CLIENT_OPENING, second SYN | from_pod | SYN | CLIENT_UNAWARE | third_syn |
| CLIENT_OPENING, second SYN | from_pod | other SYN | stays | client_syn |
| CLIENT_OPENING, second SYN | from_pod | RST | stays | client_sends_unredirected |
| CLIENT_OPENING, second SYN | from_pod | else | CLIENT_UNAWARE | no_record |
| CLIENT_OPENING, second SYN | to_pod | SYN+ACK from X | CLIENT_JOINING | client_redirected |
| CLIENT_OPENING, second SYN | to_pod | other SYN+ACK from X | stays | client_resets |
| CLIENT_OPENING, second SYN | to_pod | RST from X | nothing | client_receives |
| CLIENT_OPENING, second SYN | to_pod | else | stays | not_ours |
| CLIENT_UNAWARE | from_pod | SYN | stays | third_syn |
| CLIENT_UNAWARE | from_pod | other SYN | CLIENT_OPENING | client_syn |
| CLIENT_UNAWARE | from_pod | else | stays | no_record |
| CLIENT_UNAWARE | to_pod | SYN+ACK from X, RST from X | stays | client_late |
| CLIENT_UNAWARE | to_pod | other SYN+ACK from X | stays | client_resets |
| CLIENT_UNAWARE | to_pod | else | stays | not_ours |
| CLIENT_UNAWARE | from_net | SYN+ACK from X, other SYN+ACK from X | stays | net_client |
| CLIENT_UNAWARE | from_net | else | stays | not_ours |
| CLIENT_JOINING | from_pod | SYN | stays | client_syn |
| CLIENT_JOINING | from_pod | other SYN | CLIENT_OPENING | client_syn |
| CLIENT_JOINING | from_pod | ACK, ACK of FIN | stays | client_joins |
| CLIENT_JOINING | from_pod | data | stays | client_sends |
| CLIENT_JOINING | from_pod | FIN | and LOCAL_FIN | client_sends |
| CLIENT_JOINING | from_pod | RST | CLIENT_CLOSED | client_sends |
| CLIENT_JOINING | to_pod | other SYN+ACK from X | stays | client_other_answer |
| CLIENT_JOINING | to_pod | ACK from Y, ACK of FIN from Y, data from Y | CLIENT_ESTABLISHED | client_receives |
| CLIENT_JOINING | to_pod | FIN from Y | CLIENT_ESTABLISHED, FIN_SEEN | client_receives |
| CLIENT_JOINING | to_pod | RST from Y | CLIENT_CLOSED | client_receives |
| CLIENT_JOINING | to_pod | other RST from Y | CLIENT_ESTABLISHED, RESET_SEEN | client_receives |
| CLIENT_JOINING | to_pod | step 1 from Y | CLIENT_ESTABLISHED, CLOSING | client_closes |
| CLIENT_JOINING | to_pod | else from X | stays | not_ours |
| CLIENT_JOINING | to_pod | SYN+ACK from X, else from Y | stays | client_receives |
| CLIENT_JOINING | from_net | else from X | stays | not_ours |
| CLIENT_JOINING | from_net | SYN+ACK from X, other SYN+ACK from X, else from Y | stays | net_client |
| CLIENT_ESTABLISHED | from_pod | SYN | stays | client_syn |
| CLIENT_ESTABLISHED | from_pod | other SYN | CLIENT_OPENING | client_syn |
| CLIENT_ESTABLISHED | from_pod | FIN | and LOCAL_FIN | client_sends |
| CLIENT_ESTABLISHED | from_pod | RST | CLIENT_CLOSED | client_sends |
| CLIENT_ESTABLISHED | from_pod | else | stays | client_sends |
| CLIENT_ESTABLISHED | to_pod | other SYN+ACK from X | stays | client_other_answer |
| CLIENT_ESTABLISHED | to_pod | FIN from Y | and FIN_SEEN | client_receives |
| CLIENT_ESTABLISHED | to_pod | RST from Y | CLIENT_CLOSED | client_receives |
| CLIENT_ESTABLISHED | to_pod | other RST from Y | and RESET_SEEN | client_receives |
| CLIENT_ESTABLISHED | to_pod | step 1 from Y | CLIENT_ESTABLISHED, CLOSING | client_closes |
| CLIENT_ESTABLISHED | to_pod | else from X | stays | not_ours |
| CLIENT_ESTABLISHED | to_pod | SYN+ACK from X, else from Y | stays | client_receives |
| CLIENT_ESTABLISHED | from_net | else from X | stays | not_ours |
| CLIENT_ESTABLISHED | from_net | SYN+ACK from X, other SYN+ACK from X, else from Y | stays | net_client |
| CLIENT_ESTABLISHED, LOCAL_FIN | from_pod | SYN | stays | client_syn |
| CLIENT_ESTABLISHED, LOCAL_FIN | from_pod | other SYN | CLIENT_OPENING | client_syn |
| CLIENT_ESTABLISHED, LOCAL_FIN | from_pod | RST | CLIENT_CLOSED | client_sends |
| CLIENT_ESTABLISHED, LOCAL_FIN | from_pod | else | stays | client_sends |
| CLIENT_ESTABLISHED, LOCAL_FIN | to_pod | other SYN+ACK from X | stays | client_other_answer |
| CLIENT_ESTABLISHED, LOCAL_FIN | to_pod | FIN from Y | and FIN_SEEN | client_receives |
| CLIENT_ESTABLISHED, LOCAL_FIN | to_pod | RST from Y | CLIENT_CLOSED | client_receives |
| CLIENT_ESTABLISHED, LOCAL_FIN | to_pod | other RST from Y | and RESET_SEEN | client_receives |
| CLIENT_ESTABLISHED, LOCAL_FIN | to_pod | step 1 from Y | stays | client_ends |
| CLIENT_ESTABLISHED, LOCAL_FIN | to_pod | else from X | stays | not_ours |
| CLIENT_ESTABLISHED, LOCAL_FIN | to_pod | SYN+ACK from X, else from Y | stays | client_receives |
| CLIENT_ESTABLISHED, FIN_SEEN | from_pod | SYN | stays | client_syn |
| CLIENT_ESTABLISHED, FIN_SEEN | from_pod | other SYN | CLIENT_OPENING | client_syn |
| CLIENT_ESTABLISHED, FIN_SEEN | from_pod | ACK, data | stays | client_sends |
| CLIENT_ESTABLISHED, FIN_SEEN | from_pod | ACK of FIN | CLIENT_ESTABLISHED, PEER_FIN | client_sends |
| CLIENT_ESTABLISHED, FIN_SEEN | from_pod | FIN | and LOCAL_FIN | client_sends |
| CLIENT_ESTABLISHED, FIN_SEEN | from_pod | RST | CLIENT_CLOSED | client_sends |
| CLIENT_ESTABLISHED, FIN_SEEN | to_pod | other SYN+ACK from X | stays | client_other_answer |
| CLIENT_ESTABLISHED, FIN_SEEN | to_pod | RST from Y | CLIENT_CLOSED | client_receives |
| CLIENT_ESTABLISHED, FIN_SEEN | to_pod | other RST from Y | and RESET_SEEN | client_receives |
| CLIENT_ESTABLISHED, FIN_SEEN | to_pod | step 1 from Y | and CLOSING | client_closes |
| CLIENT_ESTABLISHED, FIN_SEEN | to_pod | else from X | stays | not_ours |
| CLIENT_ESTABLISHED, FIN_SEEN | to_pod | SYN+ACK from X, else from Y | stays | client_receives |
| CLIENT_ESTABLISHED, RESET_SEEN | from_pod | SYN | stays | client_syn |
| CLIENT_ESTABLISHED, RESET_SEEN | from_pod | other SYN | CLIENT_OPENING | client_syn |
| CLIENT_ESTABLISHED, RESET_SEEN | from_pod | FIN | CLIENT_ESTABLISHED, LOCAL_FIN | client_sends |
| CLIENT_ESTABLISHED, RESET_SEEN | from_pod | RST | CLIENT_CLOSED | client_sends |
| CLIENT_ESTABLISHED, RESET_SEEN | from_pod | else | CLIENT_ESTABLISHED | client_sends |
| CLIENT_ESTABLISHED, RESET_SEEN | to_pod | other SYN+ACK from X | stays | client_other_answer |
| CLIENT_ESTABLISHED, RESET_SEEN | to_pod | FIN from Y | and FIN_SEEN | client_receives |
| CLIENT_ESTABLISHED, RESET_SEEN | to_pod | RST from Y | CLIENT_CLOSED | client_receives |
| CLIENT_ESTABLISHED, RESET_SEEN | to_pod | step 1 from Y | and CLOSING | client_closes |
| CLIENT_ESTABLISHED, RESET_SEEN | to_pod | else from X | stays | not_ours |
| CLIENT_ESTABLISHED, RESET_SEEN | to_pod | SYN+ACK from X, else from Y | stays | client_receives |
| CLIENT_ESTABLISHED, aside | from_pod | SYN, other SYN | CLIENT_OPENING | client_syn |
| CLIENT_ESTABLISHED, aside | from_pod | FIN, RST | stays | client_sends |
| CLIENT_ESTABLISHED, aside | from_pod | else | CLIENT_ESTABLISHED | client_sends |
| CLIENT_ESTABLISHED, aside | to_pod | SYN+ACK from X, other SYN+ACK from X | stays | client_resets |
| CLIENT_ESTABLISHED, aside | to_pod | else from X | stays | not_ours |
| CLIENT_ESTABLISHED, aside | to_pod | step 1 from Y | stays | client_busy |
| CLIENT_ESTABLISHED, aside | to_pod | else from Y | stays | client_receives |
| CLIENT_ESTABLISHED, CLOSING | from_pod | SYN | stays | client_ends |
| CLIENT_ESTABLISHED, CLOSING | from_pod | other SYN | CLIENT_OPENING | client_syn |
| CLIENT_ESTABLISHED, CLOSING | from_pod | data | stays | client_closes_again |
| CLIENT_ESTABLISHED, CLOSING | from_pod | FIN | CLIENT_ESTABLISHED, LOCAL_FIN | client_sends |
| CLIENT_ESTABLISHED, CLOSING | from_pod | RST | CLIENT_CLOSED | client_sends |
| CLIENT_ESTABLISHED, CLOSING | from_pod | else | stays | client_sends |
| CLIENT_ESTABLISHED, CLOSING | to_pod | other SYN+ACK from X | stays | client_other_answer |
| CLIENT_ESTABLISHED, CLOSING | to_pod | FIN from Y | and FIN_SEEN | client_receives |
| CLIENT_ESTABLISHED, CLOSING | to_pod | RST from Y | CLIENT_CLOSED | client_receives |
| CLIENT_ESTABLISHED, CLOSING | to_pod | other RST from Y | and RESET_SEEN | client_receives |
| CLIENT_ESTABLISHED, CLOSING | to_pod | step 1 from Y | stays | client_closes |
| CLIENT_ESTABLISHED, CLOSING | to_pod | else from X | stays | not_ours |
| CLIENT_ESTABLISHED, CLOSING | to_pod | SYN+ACK from X, else from Y | stays | client_receives |
| CLIENT_ESTABLISHED, CLOSING, PEER_FIN | from_pod | SYN | stays | client_ends |
| CLIENT_ESTABLISHED, CLOSING, PEER_FIN | from_pod | other SYN | CLIENT_OPENING | client_syn |
| CLIENT_ESTABLISHED, CLOSING, PEER_FIN | from_pod | data | stays | client_closes_again |
| CLIENT_ESTABLISHED, CLOSING, PEER_FIN | from_pod | FIN, RST | CLIENT_CLOSED | client_sends |
| CLIENT_ESTABLISHED, CLOSING, PEER_FIN | from_pod | else | stays | client_sends |
| CLIENT_ESTABLISHED, CLOSING, PEER_FIN | to_pod | SYN+ACK from X | stays | client_receives |
| CLIENT_ESTABLISHED, CLOSING, PEER_FIN | to_pod | other SYN+ACK from X | stays | client_other_answer |
| CLIENT_ESTABLISHED, CLOSING, PEER_FIN | to_pod | FIN from Y | stays | client_acknowledges |
| CLIENT_ESTABLISHED, CLOSING, PEER_FIN | to_pod | RST from Y | CLIENT_CLOSED | client_receives |
| CLIENT_ESTABLISHED, CLOSING, PEER_FIN | to_pod | other RST from Y | and RESET_SEEN | client_receives |
| CLIENT_ESTABLISHED, CLOSING, PEER_FIN | to_pod | else from X | stays | not_ours |
| CLIENT_ESTABLISHED, CLOSING, PEER_FIN | to_pod | else from Y | stays | client_ends |
| CLIENT_ESTABLISHED, CLOSING, taken | from_pod | SYN | stays | client_ends |
| CLIENT_ESTABLISHED, CLOSING, taken | from_pod | other SYN | CLIENT_OPENING | client_syn |
| CLIENT_ESTABLISHED, CLOSING, taken | from_pod | data | stays | client_closes_again |
| CLIENT_ESTABLISHED, CLOSING, taken | from_pod | FIN | CLIENT_ESTABLISHED, LOCAL_FIN | client_sends |
| CLIENT_ESTABLISHED, CLOSING, taken | from_pod | RST | CLIENT_CLOSED | client_sends |
| CLIENT_ESTABLISHED, CLOSING, taken | from_pod | else | stays | client_sends |
| CLIENT_ESTABLISHED, CLOSING, taken | to_pod | other SYN+ACK from X | stays | client_other_answer |
| CLIENT_ESTABLISHED, CLOSING, taken | to_pod | FIN from Y | and FIN_SEEN | client_receives |
| CLIENT_ESTABLISHED, CLOSING, taken | to_pod | RST from Y | CLIENT_CLOSED | client_receives |
| CLIENT_ESTABLISHED, CLOSING, taken | to_pod | other RST from Y | and RESET_SEEN | client_receives |
| CLIENT_ESTABLISHED, CLOSING, taken | to_pod | step 1 from Y | stays | client_ends |
| CLIENT_ESTABLISHED, CLOSING, taken | to_pod | else from X | stays | not_ours |
| CLIENT_ESTABLISHED, CLOSING, taken | to_pod | SYN+ACK from X, else from Y | stays | client_receives |
| CLIENT_ESTABLISHED, CLOSING, taken, FIN_SEEN | from_pod | SYN | stays | client_ends |
| CLIENT_ESTABLISHED, CLOSING, taken, FIN_SEEN | from_pod | other SYN | CLIENT_OPENING | client_syn |
| CLIENT_ESTABLISHED, CLOSING, taken, FIN_SEEN | from_pod | ACK | stays | client_sends |
| CLIENT_ESTABLISHED, CLOSING, taken, FIN_SEEN | from_pod | ACK of FIN | CLIENT_ESTABLISHED, PEER_FIN, CLOSING | client_sends |
| CLIENT_ESTABLISHED, CLOSING, taken, FIN_SEEN | from_pod | data | stays | client_closes_again |
| CLIENT_ESTABLISHED, CLOSING, taken, FIN_SEEN | from_pod | FIN | CLIENT_ESTABLISHED, LOCAL_FIN, FIN_SEEN | client_sends |
| CLIENT_ESTABLISHED, CLOSING, taken, FIN_SEEN | from_pod | RST | CLIENT_CLOSED | client_sends |
| CLIENT_ESTABLISHED, CLOSING, taken, FIN_SEEN | to_pod | other SYN+ACK from X | stays | client_other_answer |
| CLIENT_ESTABLISHED, CLOSING, taken, FIN_SEEN | to_pod | RST from Y | CLIENT_CLOSED | client_receives |
| CLIENT_ESTABLISHED, CLOSING, taken, FIN_SEEN | to_pod | other RST from Y | and RESET_SEEN | client_receives |
| CLIENT_ESTABLISHED, CLOSING, taken, FIN_SEEN | to_pod | step 1 from Y | stays | client_ends |
| CLIENT_ESTABLISHED, CLOSING, taken, FIN_SEEN | to_pod | else from X | stays | not_ours |
| CLIENT_ESTABLISHED, CLOSING, taken, FIN_SEEN | to_pod | SYN+ACK from X, else from Y | stays | client_receives |
| CLIENT_ESTABLISHED, CLOSING, taken, PEER_FIN | from_pod | SYN | stays | client_ends |
| CLIENT_ESTABLISHED, CLOSING, taken, PEER_FIN | from_pod | other SYN | CLIENT_OPENING | client_syn |
| CLIENT_ESTABLISHED, CLOSING, taken, PEER_FIN | from_pod | data | CLIENT_CLOSED | client_wrote_late |
| CLIENT_ESTABLISHED, CLOSING, taken, PEER_FIN | from_pod | FIN | CLIENT_CLOSED | client_acknowledges |
| CLIENT_ESTABLISHED, CLOSING, taken, PEER_FIN | from_pod | RST | CLIENT_CLOSED | client_sends |
| CLIENT_ESTABLISHED, CLOSING, taken, PEER_FIN | from_pod | else | stays | client_sends |
| CLIENT_ESTABLISHED, CLOSING, taken, PEER_FIN | to_pod | SYN+ACK from X | stays | client_receives |
| CLIENT_ESTABLISHED, CLOSING, taken, PEER_FIN | to_pod | other SYN+ACK from X | stays | client_other_answer |
| CLIENT_ESTABLISHED, CLOSING, taken, PEER_FIN | to_pod | FIN from Y | stays | client_acknowledges |
| CLIENT_ESTABLISHED, CLOSING, taken, PEER_FIN | to_pod | else from X | stays | not_ours |
| CLIENT_ESTABLISHED, CLOSING, taken, PEER_FIN | to_pod | else from Y | stays | client_ends |
| CLIENT_CLOSED | from_pod | SYN, other SYN | CLIENT_OPENING | client_syn |
| CLIENT_CLOSED | from_pod | else | stays | client_sends |
| CLIENT_CLOSED | to_pod | SYN+ACK from X, other SYN+ACK from X | stays | client_resets |
| CLIENT_CLOSED | to_pod | else from X | stays | not_ours |
| CLIENT_CLOSED | to_pod | step 1 from Y | stays | client_busy |
| CLIENT_CLOSED | to_pod | else from Y | stays | client_receives |
| CLIENT_CLOSED | from_net | else from X | stays | not_ours |
| CLIENT_CLOSED | from_net | SYN+ACK from X, other SYN+ACK from X, else from Y | stays | net_client |
| CLIENT_CLOSED, CLOSING | from_pod | SYN, other SYN | CLIENT_OPENING | client_syn |
| CLIENT_CLOSED, CLOSING | from_pod | data | stays | client_wrote_late |
| CLIENT_CLOSED, CLOSING | from_pod | FIN | stays | client_acknowledges |
| CLIENT_CLOSED, CLOSING | from_pod | else | stays | client_sends |
| CLIENT_CLOSED, CLOSING | to_pod | SYN+ACK from X, other SYN+ACK from X | stays | client_resets |
| CLIENT_CLOSED, CLOSING | to_pod | FIN from Y | stays | client_acknowledges |
| CLIENT_CLOSED, CLOSING | to_pod | step 1 from Y | stays | client_busy |
| CLIENT_CLOSED, CLOSING | to_pod | else from X | stays | not_ours |
| CLIENT_CLOSED, CLOSING | to_pod | else from Y | stays | client_ends |
| nothing, at the server | from_pod | any | stays | not_ours |
| nothing, at the server | to_pod | SYN to X, other SYN to X | SERVER_OPENING | server_syn |
| nothing, at the server | to_pod | SYN to Y, other SYN to Y | SERVER_OPENING | server_syn_service |
| nothing, at the server | to_pod | else to X | stays | not_ours |
| nothing, at the server | to_pod | else to Y | SERVER_STRAY | server_unentered |
| nothing, at the server | from_net | SYN to X, other SYN to X | stays | net_redirect_port |
| nothing, at the server | from_net | SYN to Y, other SYN to Y | stays | net_service_port |
| nothing, at the server | from_net | else | stays | not_ours |
| SERVER_OPENING | from_pod | SYN+ACK | stays | server_answers |
| SERVER_OPENING | from_pod | refusal | stays | server_refuses |
| SERVER_OPENING | from_pod | else | stays | not_ours |
| SERVER_OPENING | to_pod | SYN to X, other SYN to X | stays | server_syn |
| SERVER_OPENING | to_pod | SYN to Y, other SYN to Y | stays | server_syn_service |
| SERVER_OPENING | to_pod | else to X | stays | not_ours |
| SERVER_OPENING | to_pod | SYN+ACK to Y, RST to Y, other RST to Y | stays | server_unentered |
| SERVER_OPENING | to_pod | else to Y | and SERVER_STRAY | server_unentered |
| SERVER_OPENING | from_net | SYN to X, other SYN to X | stays | net_redirect_port |
| SERVER_OPENING | from_net | else to X | stays | not_ours |
| SERVER_OPENING | from_net | else to Y | stays | net_service_port |
| SERVER_OPENING, answered | from_pod | SYN+ACK | stays | server_answers |
| SERVER_OPENING, answered | from_pod | other SYN+ACK, ACK of FIN | stays | not_ours |
| SERVER_OPENING, answered | from_pod | RST, refusal | stays | server_refuses |
| SERVER_OPENING, answered | from_pod | else | stays | server_opening |
| SERVER_OPENING, answered | to_pod | SYN to X, other SYN to X | stays | server_syn |
| SERVER_OPENING, answered | to_pod | SYN to Y, other SYN to Y | stays | server_syn_service |
| SERVER_OPENING, answered | to_pod | SYN+ACK to Y, RST to Y, other RST to Y | stays | server_unentered |
| SERVER_OPENING, answered | to_pod | other ACK to Y | and SERVER_STRAY | server_unentered |
| SERVER_OPENING, answered | to_pod | FIN to Y | SERVER_ESTABLISHED, FIN_SEEN | server_joined |
| SERVER_OPENING, answered | to_pod | else to X | stays | not_ours |
| SERVER_OPENING, answered | to_pod | else to Y | SERVER_ESTABLISHED | server_joined |
| SERVER_STRAY | from_pod | SYN+ACK, other SYN+ACK, refusal | stays | not_ours |
| SERVER_STRAY | from_pod | RST | stays | server_refuses |
| SERVER_STRAY | from_pod | FIN | SERVER_ESTABLISHED, LOCAL_FIN | server_rebuilt |
| SERVER_STRAY | from_pod | else | SERVER_ESTABLISHED | server_rebuilt |
| SERVER_STRAY | to_pod | SYN to X, other SYN to X | and SERVER_OPENING | server_syn |
| SERVER_STRAY | to_pod | SYN to Y, other SYN to Y | and SERVER_OPENING | server_syn_service |
| SERVER_STRAY | to_pod | else to X | stays | not_ours |
| SERVER_STRAY | to_pod | else to Y | stays | server_unentered |
| SERVER_STRAY | from_net | SYN to X, other SYN to X | stays | net_redirect_port |
| SERVER_STRAY | from_net | SYN to Y, other SYN to Y | stays | net_service_port |
| SERVER_STRAY | from_net | else | stays | not_ours |
| SERVER_FOUND | from_pod | SYN+ACK, other SYN+ACK | stays | not_ours |
| SERVER_FOUND | from_pod | RST, refusal | stays | server_refuses |
| SERVER_FOUND | from_pod | FIN | SERVER_ESTABLISHED, LOCAL_FIN | server_rebuilt |
| SERVER_FOUND | from_pod | else | SERVER_ESTABLISHED | server_rebuilt |
| SERVER_FOUND | to_pod | SYN to X, other SYN to X | and SERVER_OPENING | server_syn |
| SERVER_FOUND | to_pod | SYN to Y, other SYN to Y | and SERVER_OPENING | server_syn_service |
| SERVER_FOUND | to_pod | other ACK to Y | stays | server_stray |
| SERVER_FOUND | to_pod | else to X | stays | not_ours |
| SERVER_FOUND | to_pod | else to Y | stays | server_unentered |
| SERVER_FOUND | from_net | SYN to X, other SYN to X | stays | net_redirect_port |
| SERVER_FOUND | from_net | else to X | stays | not_ours |
| SERVER_FOUND | from_net | else to Y | stays | net_service_port |
| SERVER_ESTABLISHED | from_pod | SYN+ACK | stays | server_answers |
| SERVER_ESTABLISHED | from_pod | other SYN+ACK | nothing | not_ours |
| SERVER_ESTABLISHED | from_pod | FIN | and LOCAL_FIN | server_sends |
| SERVER_ESTABLISHED | from_pod | RST, refusal | SERVER_CLOSED | server_sends |
| SERVER_ESTABLISHED | from_pod | else | stays | server_sends |
| SERVER_ESTABLISHED | to_pod | SYN to X, other SYN to X | and SERVER_OPENING | server_syn |
| SERVER_ESTABLISHED | to_pod | SYN to Y, other SYN to Y | and SERVER_OPENING | server_syn_service |
| SERVER_ESTABLISHED | to_pod | FIN to Y | and FIN_SEEN | server_receives |
| SERVER_ESTABLISHED | to_pod | RST to Y | SERVER_CLOSED | server_receives |
| SERVER_ESTABLISHED | to_pod | other RST to Y | and RESET_SEEN | server_receives |
| SERVER_ESTABLISHED | to_pod | else to X | stays | not_ours |
| SERVER_ESTABLISHED | to_pod | else to Y | stays | server_receives |
| SERVER_ESTABLISHED | from_net | SYN to X, other SYN to X | stays | net_redirect_port |
| SERVER_ESTABLISHED | from_net | else to X | stays | not_ours |
| SERVER_ESTABLISHED | from_net | else to Y | stays | net_service_port |
| SERVER_ESTABLISHED, LOCAL_FIN | from_pod | SYN+ACK | stays | server_answers |
| SERVER_ESTABLISHED, LOCAL_FIN | from_pod | other SYN+ACK | nothing | not_ours |
| SERVER_ESTABLISHED, LOCAL_FIN | from_pod | RST, refusal | SERVER_CLOSED | server_sends |
| SERVER_ESTABLISHED, LOCAL_FIN | from_pod | else | stays | server_sends |
| SERVER_ESTABLISHED, LOCAL_FIN | to_pod | SYN to X, other SYN to X | and SERVER_OPENING | server_syn |
| SERVER_ESTABLISHED, LOCAL_FIN | to_pod | SYN to Y | and SERVER_OPENING | server_syn_service |
| SERVER_ESTABLISHED, LOCAL_FIN | to_pod | other SYN to Y | and SERVER_OPENING | server_syn_service |
| SERVER_ESTABLISHED, LOCAL_FIN | to_pod | FIN to Y | and FIN_SEEN | server_receives |
| SERVER_ESTABLISHED, LOCAL_FIN | to_pod | RST to Y | SERVER_CLOSED | server_receives |
| SERVER_ESTABLISHED, LOCAL_FIN | to_pod | other RST to Y | and RESET_SEEN | server_receives |
| SERVER_ESTABLISHED, LOCAL_FIN | to_pod | else to X | stays | not_ours |
| SERVER_ESTABLISHED, LOCAL_FIN | to_pod | else to Y | stays | server_receives |
| SERVER_ESTABLISHED, FIN_SEEN | from_pod | SYN+ACK | stays | server_answers |
| SERVER_ESTABLISHED, FIN_SEEN | from_pod | other SYN+ACK | nothing | not_ours |
| SERVER_ESTABLISHED, FIN_SEEN | from_pod | ACK, data | stays | server_sends |
| SERVER_ESTABLISHED, FIN_SEEN | from_pod | ACK of FIN | SERVER_ESTABLISHED, PEER_FIN | server_sends |
| SERVER_ESTABLISHED, FIN_SEEN | from_pod | FIN | and LOCAL_FIN | server_sends |
| SERVER_ESTABLISHED, FIN_SEEN | from_pod | RST, refusal | SERVER_CLOSED | server_sends |
| SERVER_ESTABLISHED, FIN_SEEN | to_pod | SYN to X, other SYN to X | and SERVER_OPENING | server_syn |
| SERVER_ESTABLISHED, FIN_SEEN | to_pod | SYN to Y, other SYN to Y | and SERVER_OPENING | server_syn_service |
| SERVER_ESTABLISHED, FIN_SEEN | to_pod | RST to Y | SERVER_CLOSED | server_receives |
| SERVER_ESTABLISHED, FIN_SEEN | to_pod | other RST to Y | and RESET_SEEN | server_receives |
| SERVER_ESTABLISHED, FIN_SEEN | to_pod | else to X | stays | not_ours |
| SERVER_ESTABLISHED, FIN_SEEN | to_pod | else to Y | stays | server_receives |
| SERVER_ESTABLISHED, RESET_SEEN | from_pod | SYN+ACK | stays | server_answers |
| SERVER_ESTABLISHED, RESET_SEEN | from_pod | other SYN+ACK | nothing | not_ours |
| SERVER_ESTABLISHED, RESET_SEEN | from_pod | FIN | SERVER_ESTABLISHED, LOCAL_FIN | server_sends |
| SERVER_ESTABLISHED, RESET_SEEN | from_pod | RST, refusal | SERVER_CLOSED | server_sends |
| SERVER_ESTABLISHED, RESET_SEEN | from_pod | else | SERVER_ESTABLISHED | server_sends |
| SERVER_ESTABLISHED, RESET_SEEN | to_pod | SYN to X, other SYN to X | and SERVER_OPENING | server_syn |
| SERVER_ESTABLISHED, RESET_SEEN | to_pod | SYN to Y | and SERVER_OPENING | server_syn_service |
| SERVER_ESTABLISHED, RESET_SEEN | to_pod | other SYN to Y | and SERVER_OPENING | server_syn_service |
| SERVER_ESTABLISHED, RESET_SEEN | to_pod | FIN to Y | and FIN_SEEN | server_receives |
| SERVER_ESTABLISHED, RESET_SEEN | to_pod | RST to Y | SERVER_CLOSED | server_receives |
| SERVER_ESTABLISHED, RESET_SEEN | to_pod | else to X | stays | not_ours |
| SERVER_ESTABLISHED, RESET_SEEN | to_pod | else to Y | stays | server_receives |
| SERVER_ESTABLISHED, aside | from_pod | SYN+ACK | stays | server_answers |
| SERVER_ESTABLISHED, aside | from_pod | other SYN+ACK | nothing | not_ours |
| SERVER_ESTABLISHED, aside | from_pod | FIN, RST, refusal | stays | server_sends |
| SERVER_ESTABLISHED, aside | from_pod | else | SERVER_ESTABLISHED | server_sends |
| SERVER_ESTABLISHED, aside | to_pod | SYN to X, other SYN to X | and SERVER_OPENING | server_syn |
| SERVER_ESTABLISHED, aside | to_pod | SYN to Y, other SYN to Y | and SERVER_OPENING | server_syn_service |
| SERVER_ESTABLISHED, aside | to_pod | else to X | stays | not_ours |
| SERVER_ESTABLISHED, aside | to_pod | else to Y | stays | server_receives |
| SERVER_CLOSED | from_pod | SYN+ACK, other SYN+ACK | nothing | not_ours |
| SERVER_CLOSED | from_pod | else | stays | server_sends |
| SERVER_CLOSED | to_pod | SYN to X, other SYN to X | and SERVER_OPENING | server_syn |
| SERVER_CLOSED | to_pod | SYN to Y, other SYN to Y | and SERVER_OPENING | server_syn_service |
| SERVER_CLOSED | to_pod | else to X | stays | not_ours |
| SERVER_CLOSED | to_pod | else to Y | stays | server_receives |
| SERVER_CLOSED | from_net | SYN to X, other SYN to X | stays | net_redirect_port |
| SERVER_CLOSED | from_net | else to X | stays | not_ours |
| SERVER_CLOSED | from_net | else to Y | stays | net_service_port |
| SERVER_CLOSED, TIME_WAIT | from_pod | SYN+ACK, other SYN+ACK | nothing | not_ours |
| SERVER_CLOSED, TIME_WAIT | from_pod | else | stays | server_sends |
| SERVER_CLOSED, TIME_WAIT | to_pod | SYN to X | SERVER_CLOSED + SERVER_OPENING | server_syn |
| SERVER_CLOSED, TIME_WAIT | to_pod | other SYN to X | SERVER_CLOSED + SERVER_OPENING, substitute | server_syn |
| SERVER_CLOSED, TIME_WAIT | to_pod | SYN to Y | SERVER_CLOSED + SERVER_OPENING | server_syn_service |
| SERVER_CLOSED, TIME_WAIT | to_pod | other SYN to Y | SERVER_CLOSED + SERVER_OPENING, substitute | server_syn_service |
| SERVER_CLOSED, TIME_WAIT | to_pod | else to X | stays | not_ours |
| SERVER_CLOSED, TIME_WAIT | to_pod | else to Y | stays | server_receives |
| SERVER_CLOSED, LAST_ACK | from_pod | SYN+ACK, other SYN+ACK | nothing | not_ours |
| SERVER_CLOSED, LAST_ACK | from_pod | else | stays | server_sends |
| SERVER_CLOSED, LAST_ACK | to_pod | SYN to X | SERVER_CLOSED + SERVER_OPENING | server_syn |
| SERVER_CLOSED, LAST_ACK | to_pod | other SYN to X | SERVER_CLOSED + SERVER_OPENING | server_syn |
| SERVER_CLOSED, LAST_ACK | to_pod | SYN to Y | SERVER_CLOSED + SERVER_OPENING | server_syn_service |
| SERVER_CLOSED, LAST_ACK | to_pod | other SYN to Y | SERVER_CLOSED + SERVER_OPENING | server_syn_service |
| SERVER_CLOSED, LAST_ACK | to_pod | else to X | stays | not_ours |
| SERVER_CLOSED, LAST_ACK | to_pod | else to Y | stays | server_receives |
"""
"""As docs/architecture.md has it, and explains its words."""


class Row(NamedTuple):
    state: str
    hook: str
    packets: str
    then: str
    reason: str


class Case(NamedTuple):
    """One packet of a row."""

    state: str
    hook: str
    packet: str
    then: str
    reason: str


ROWS = [Row(*(cell.strip() for cell in line.strip("|").split("|"))) for line in TABLE.splitlines()[2:]]


def words(row: Row) -> list[str]:
    return row.packets.split(", ")


def port(packet: str) -> str:
    """ " from X", say; of what a pod's own stack sends, nothing."""
    found = re.search(r" (from|to) [XY]$", packet)
    return found[0] if found else ""


def meant(row: Row) -> list[str]:
    """The packets of a row: `any` is every one that may come, `else` every one that no other row of the state and
    the hook names; a port after `else` means those of that port."""
    kinds = SITUATIONS[row.state].kinds(row.hook)
    named = {word for other in ROWS if other[:2] == row[:2] for word in words(other)}
    out = []
    for word in words(row):
        general, at = re.match(r"(any|else)?(.*)", word).groups()
        if general is None:
            out.append(word)
        else:
            out += [
                kind
                for kind in kinds
                if (not at or port(kind) == at) and not (general == "else" and kind in named)
            ]
    return out


def things(state: str) -> set[str]:
    return set(re.split(r", | \+ ", state))


CASES = [Case(row.state, row.hook, packet, row.then, row.reason) for row in ROWS for packet in meant(row)]


def expected(before: set[str], then: str) -> set[str]:
    """What the state is after a row."""
    if then == STAYS:
        return before
    return before | {then.removeprefix(AND)} if then.startswith(AND) else things(then)


@cache
def state_before(state: str) -> str:
    return End(SITUATIONS[state]).state()


@pytest.mark.parametrize("state", SITUATIONS)
def test_a_connection_comes_to_each_state_of_the_table(state):
    told = re.sub(r", at the \w+|, second SYN|, answered|, TIME_WAIT|, LAST_ACK|(?<=CLOSED), CLOSING|, taken", "", state)
    assert things(state_before(state)) == things(told)


@pytest.mark.parametrize("state", SITUATIONS)
def test_in_each_state_a_packet_has_the_reason_and_leaves_the_state_that_the_table_says(state):
    before = things(state_before(state))
    for case in (case for case in CASES if case.state == state):
        end = End(SITUATIONS[state])
        reason = end.run(case.hook, case.packet).reason.name
        assert (reason, things(end.state())) == (case.reason, expected(before, case.then)), case


@pytest.mark.parametrize("state", SITUATIONS)
def test_the_whole_chain_decides_as_the_fast_path_does(state):
    for hook in HOOKS:
        for packet in SITUATIONS[state].kinds(hook):
            fast, whole = End(SITUATIONS[state]), End(SITUATIONS[state])
            assert fast.run(hook, packet) == whole.run(hook, packet, fast=False), (hook, packet)
            assert fast.state() == whole.state(), (hook, packet)


def test_the_table_names_each_packet_that_may_come_in_each_state_once():
    may_come = Counter(
        (state, hook, packet)
        for state, situation in SITUATIONS.items()
        for hook in HOOKS
        for packet in situation.kinds(hook)
        if hook != "from_net" or is_plain(state)
    )
    assert Counter(case[:3] for case in CASES) == may_come


def test_the_table_has_every_state_and_every_kind_of_packet():
    states = {
        FlowState[thing] for row in ROWS for thing in things(row.state) if thing in FlowState.__members__
    }
    assert states == set(FlowState)
    for at_client, packets in ((True, CLIENTS), (False, SERVERS)):
        for hook, kinds in packets.items():
            seen = {
                case.packet
                for case in CASES
                if case.hook == hook and SITUATIONS[case.state].at_client == at_client
            }
            assert seen == set(kinds), hook


def test_a_row_names_only_states_and_reasons_that_there_are():
    known = {state.name for state in FlowState} | {"LOCAL_FIN", "PEER_FIN", "FIN_SEEN", "RESET_SEEN", "CLOSING", "aside", "substitute"}
    for row in ROWS:
        assert row.reason in {reason.name for reason in REASONS}, row
        assert row.then in (STAYS, NOTHING) or things(row.then.removeprefix(AND)) <= known, row


def is_plain(state: str) -> bool:
    """Whether nothing but the state is told."""
    return "," not in state or state.startswith(NOTHING)


@pytest.mark.parametrize("state", [state for state in SITUATIONS if not is_plain(state)])
def test_at_the_uplink_only_the_state_counts(state):
    def judged(name: str) -> dict[str, str]:
        return {
            packet: End(SITUATIONS[name]).run("from_net", packet).reason.name
            for packet in SITUATIONS[name].kinds("from_net")
        }

    assert judged(state) == judged(state.split(",")[0])


@pytest.mark.parametrize("state", SITUATIONS)
def test_at_the_uplink_nothing_is_remembered(state):
    for packet in SITUATIONS[state].kinds("from_net"):
        end = End(SITUATIONS[state])
        before = end.connections()
        end.run("from_net", packet)
        assert end.connections() == before, packet


def test_the_documents_table_is_this_one():
    section = ARCHITECTURE.read_text().split("\n## The life of a flow\n")[1].split("\n## ")[0]
    assert [line for line in section.splitlines() if line.startswith("|")] == TABLE.splitlines()
