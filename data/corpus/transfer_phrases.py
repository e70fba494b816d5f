"""How people ask for a transfer: sentences around `{c}`, the contractor, and `{a}`, the amount as written.

transfers.py draws one and fills it in. To add a way of asking, add a line.
"""

PLAIN = "transfer {a} to {c}"  # the exercise's own sentence
PLAIN_SHARE = 0.16
# What can stand after "please", "could you" or "I want to".
ORDERS = """
transfer {c} {a}
transfer to {c} {a}
transfer the sum of {a} to {c}
transfer a total of {a} to {c}
transfer {a} from my account to {c}
transfer {a} to the account of {c}
send {a} to {c}
send {a} to {c}
send {c} {a}
send {c} {a}
send {c} a payment of {a}
send the sum of {a} to {c}
send {a} over to {c}
pay {c} {a}
pay {c} {a}
pay {a} to {c}
pay {c} the sum of {a}
pay {c} exactly {a}
pay back {a} to {c}
pay {c} back {a}
pay off my debt to {c}, {a}
pay the bill of {c}, {a}
pay the bill of {a} from {c}
wire {a} to {c}
wire {c} {a}
wire {a} from my savings to {c}
give {c} {a}
give {a} to {c}
make a payment of {a} to {c}
make a payment of {a} to the account of {c}
make a payment to {c}, {a}
make a transfer of {a} to {c}
move {a} to {c}
move {a} from my account to {c}
move {a} into the account of {c}
put {a} into the account of {c}
put {a} into {c}'s account
credit {c} with {a}
credit {a} to {c}
credit the account of {c} with {a}
deposit {a} into the account of {c}
deposit {a} into {c}'s account
top up the account of {c} by {a}
top up {c}'s account with {a}
remit {a} to {c}
remit to {c} the sum of {a}
forward {a} to {c}
return {a} to {c}
refund {a} to {c}
refund {c} {a}
repay {c} {a}
reimburse {c} with {a}
donate {a} to {c}
lend {c} {a}
lend {a} to {c}
settle my debt of {a} to {c}
settle the bill of {a} with {c}
set up a payment of {a} to {c}
set up a transfer to {c} for {a}
arrange a transfer of {a} to {c}
process a payment of {a} to {c}
issue a payment to {c} in the amount of {a}
take {a} from my account and send it to {c}
take {a} from my savings and pay it to {c}
debit my account by {a} and send the money to {c}
use my card to pay {c} {a}
""".strip().splitlines()
STATEMENTS = """
{c} should get {a}
{c} should receive {a} from me
{c} must be paid {a}
{c} has to get {a}
{c} needs {a} from me
{c} is owed {a}
{c} is waiting for {a}
{c} asked me for {a}
{c} gets {a} from my account
{c} sent me a bill of {a}, pay it
{c} wants {a}, send it
let {c} have {a}
I owe {c} {a}
I owe {a} to {c}
we owe {c} {a}
I promised {c} {a}
I promised {a} to {c}
I agreed with {c} on {a}, send it
my debt to {c} is {a}, pay it
it is time to pay {c} {a}
it is time to send {a} to {c}
the recipient is {c}, the amount is {a}
the sum is {a} and it goes to {c}
there is a bill from {c}, pay {a}
from my account to {c}, {a}
{a} should go to {c}
{a} must be sent to {c}
{a} goes to {c}
{a} from me to {c}
{a} to {c}
{a} for {c}
a payment of {a} to {c}
new transfer of {a} to {c}
""".strip().splitlines()
LABELS = """
recipient: {c}, amount: {a}
amount: {a}, recipient: {c}
recipient {c}, amount {a}
amount {a}, recipient {c}
contractor: {c}, sum: {a}
sum: {a}, contractor: {c}
payee: {c}. Amount: {a}
to: {c}; sum: {a}
payment to {c}: {a}
transfer to {c}: {a}
transfer: {a}, {c}
for {c}: {a}
{c}: {a}
{c}, {a}
{a}, {c}
""".strip().splitlines()
FRAMES = {PLAIN, *ORDERS, *STATEMENTS, *LABELS}

ASKING = ("could you ", "can you ", "could you please ", "can you please ", "would you ", "will you ", "may I ask you to ")
TELLING = (
    "please ", "please ", "please ", "please ", "kindly ", "I want to ", "I need to ", "I need to ", "I have to ", "I must ",
    "I'd like to ", "I would like to ", "I want you to ", "we need to ", "let's ", "help me ", "don't forget to ",
    "remember to ", "go ahead and ", "I am going to ", "I was told to ", "my boss asked me to ",
)  # fmt: skip
GREETINGS = ("hi, ", "hello, ", "hey, ", "hi there, ", "good morning, ", "good evening, ", "ok, ")
TAILS = (
    " today", " now", " right now", " as soon as possible", " this week", " tonight", " by the evening", " again",
    " every month", ", please", ", please", " please",
)  # fmt: skip
PURPOSES = (
    "lunch, dinner, coffee, the rent, the tickets, the books, the flowers, the repairs, the birthday cake, the groceries, "
    "the taxi, the concert, the lessons, the haircut, last month, the delivery, the paint, the new bike, the trip, "
    "the phone bill, the electricity, the used sofa, the work on the roof, the photos, the vet, the party, the gym, "
    "the website, a gift, the holiday, the broken window, the translation, babysitting, cleaning, the shoes"
).split(", ")
NUMBERED = ("invoice", "order", "contract", "bill", "ticket", "invoice number", "order number")
