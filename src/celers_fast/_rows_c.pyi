from celers_fast._rows_py import decode_claims as decode_claims
from celers_fast._rows_py import make_receipt as make_receipt
from celers_fast._rows_py import parse_datetime as parse_datetime
from celers_fast._rows_py import parse_receipt as parse_receipt
